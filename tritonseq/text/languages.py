"""The languages of a checkpoint, and how its models are told them."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .vocabulary import Vocabulary

    Style = Literal["mbart", "mbart50", "marian"]

# The languages of mBART in the order of their tokens, and those that mBART-50 adds.
_MBART = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN
"""
_ADDED = """
af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX
sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
MBART = tuple(_MBART.split())
MBART50 = (*MBART, *_ADDED.split())


class Languages(NamedTuple):
    """What can be asked for, and in which way."""

    style: Style | None = None
    codes: Sequence[str] = ()
    source: str | None = None
    """The language of texts unless another is named."""

    def token(self, code: str) -> str:
        """The token of a language; ValueError, with the nearest codes, if there is none."""
        if not self.codes:
            raise ValueError(
                f"{code!r}: this checkpoint has no languages to choose from; "
                "if it wants an instruction before every text, pass prefix="
            )
        if code not in self.codes:
            near = self._nearest(str(code))
            others = " and others" if len(near) < len(self.codes) else ""
            raise ValueError(
                f"{code!r} is no language of this checkpoint: it has {', '.join(near)}{others}"
            )
        return f">>{code}<<" if self.style == "marian" else code

    @property
    def usual_source(self) -> str | None:
        """The language of texts that are read without naming one; None if it is not known."""
        is_mbart = self.style in ("mbart", "mbart50")
        return self.source or ("en_XX" if is_mbart else None)

    def instruct(self, tgt_lang: str | None) -> str:
        """What to put before every text, so that it is translated to `tgt_lang`."""
        if tgt_lang is None:
            return ""
        token = self.token(tgt_lang)
        return f"{token} " if self.style == "marian" else ""

    def frame(self, vocabulary: Vocabulary, src_lang: str | None) -> tuple[list[int], list[int]]:
        """The ids before and behind every text in `src_lang`."""
        before, behind = vocabulary.frame()
        if self.style not in ("mbart", "mbart50"):
            if src_lang is not None:
                raise ValueError(
                    f"src_lang={src_lang!r}: this checkpoint is not told the language of its "
                    "source; leave src_lang out"
                )
            return before, behind
        usual = self.usual_source or ""
        code = vocabulary.token_id(self.token(usual if src_lang is None else src_lang))
        end = vocabulary.token_id("</s>")
        assert code is not None and end is not None, "checked when the tokenizer was read"
        return ([], [end, code]) if self.style == "mbart" else ([code], [end])

    def has_open_target(self, texts: Iterable[str]) -> bool:
        """Whether a target can be chosen, and there is a text that does not name one."""
        if self.style == "mbart50":
            return True
        if self.style != "marian" or len(self.codes) < 2:
            return False
        named = (re.match(r"\s*>>(.+?)<<", text) for text in texts)
        return not all(code and code[1] in self.codes for code in named)

    def target_options(self, token_id: int) -> dict[str, int]:
        """The options of `generate` that make a model write the language with this token."""
        if self.style == "mbart50":
            return {"forced_bos_token_id": token_id}
        if self.style == "mbart":
            return {"decoder_start_token_id": token_id}
        return {}  # Marian is told in its source

    def _nearest(self, code: str) -> list[str]:
        """Other forms of the same language first: "fr_XX" for "fr"."""
        found = [known for known in self.codes if known[:2] == code[:2]]
        found += difflib.get_close_matches(code, self.codes, n=3)
        return list(dict.fromkeys(found))[:3] or list(self.codes[:8])
