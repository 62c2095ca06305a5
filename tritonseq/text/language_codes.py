"""Language codes, in the order in which their tokens are numbered; and those of a checkpoint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from tritonseq.shown import shown

from .fast import FastVocabulary
from .fsmt import FsmtVocabulary
from .languages import STYLES, Languages
from .piece_lists import MarianPieces
from .sentencepiece import SentencePieces
from .tokenizer_config import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .special_tokens import Stated
    from .vocabulary import Vocabulary

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

# Costa-jussà et al., "No Language Left Behind", 2022: those of FLORES-200.
_FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab
ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn
ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl
cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn
dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn
fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn
heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn
jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn
kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn
lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn
luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn mni_Beng
khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab
quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn
slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn
sun_Latn swe_Latn swh_Latn szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi
taq_Latn taq_Tfng tpi_Latn tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab
ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn
yue_Hant zho_Hans zho_Hant zul_Latn
"""
FLORES = tuple(_FLORES.split())

# Fan et al., "Beyond English-Centric Multilingual Machine Translation", 2020; and what Tran et al.
# trained for WMT21.
_M2M100 = """
af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi
hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns
oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh
zu
"""
M2M100 = {
    "m2m100": tuple(_M2M100.split()),
    "wmt21": ("en", "ha", "is", "ja", "cs", "ru", "zh", "de"),
}
"""By what tokenizer_config.json says as `language_codes`."""

_PLBART = ("java", "python", "en_XX")
PLBART = {"base": _PLBART, "multi": (*_PLBART, "javascript", "php", "ruby", "go")}
"""Likewise; Ahmad et al., "PLBART", 2021."""

_FLORES_LIKE = re.compile("[a-z]{3}_[A-Z][a-z]{3}")


class TokenizerSays(Protocol):
    """What the files of a tokenizer say, as `TokenizerFolder` has it."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def model(self) -> Mapping[str, Any]: ...
    @property
    def stated(self) -> Stated: ...


def languages_of(vocabulary: Vocabulary, family: str | None, said: TokenizerSays) -> Languages:
    """Those that a vocabulary has tokens of, told in the style of its family."""
    if isinstance(vocabulary, MarianPieces):
        named = said.config.get("source_lang")
        source = named if isinstance(named, str) else None
        return Languages(STYLES["marian"], vocabulary.languages(), source)
    if isinstance(vocabulary, FsmtVocabulary):
        return Languages(framed=vocabulary.language)
    kind, known = _language_kind(vocabulary, family, said)
    if kind is None:
        return Languages()
    style = STYLES[kind]
    if kind == "nllb" and said.config.get("legacy_behaviour"):
        style = style._replace(source="behind")
    if kind == "plbart" and known is PLBART["multi"]:
        style = style._replace(usual="en_XX")
    codes = [code for code in known if vocabulary.token_id(style.form.format(code)) is not None]
    if not codes:
        return Languages()
    if vocabulary.token_id("</s>") is None:
        raise ValueError("the vocabulary has no </s>, which ends every text of this tokenizer")
    key = "tgt_lang" if style.target == "before" else "src_lang"
    languages = Languages(style, codes, said.config.get(key))
    if languages.framed is not None and style.target != "text":
        try:
            languages.token(languages.framed)
        except ValueError as error:
            raise ValueError(f"tokenizer_config.json says {key}: {error}") from None
    return languages


def _language_kind(
    vocabulary: Vocabulary, family: str | None, said: TokenizerSays
) -> tuple[str | None, Iterable[str]]:
    """The style in which languages are told, and the codes that there may be."""
    if family in ("mbart", "mbart50"):
        codes = [code for code in MBART50 if vocabulary.token_id(code) is not None]
        return "mbart50" if len(codes) > len(MBART) else family, codes
    added = [token.content for token in said.stated.tokens]
    if isinstance(vocabulary, FastVocabulary):
        added += [token.content for token in vocabulary.backend.get_added_tokens_decoder().values()]
    if family == "nllb":
        # Fine-tuned ones may have more.
        return "nllb", dict.fromkeys((*FLORES, *filter(_FLORES_LIKE.fullmatch, added)))
    if family in ("m2m100", "small100"):
        return family, listed_codes(said, M2M100)
    if family == "plbart":
        return "plbart", listed_codes(said, PLBART)
    if family == "albert" and said.model.get("model_type") == "mbart":
        return "indicbart", list(dict.fromkeys(STYLES["indicbart"].codes(added)))
    is_madlad = family in ("t5", "mt5", WHOLE) and vocabulary.token_id("<2en>") is not None
    if is_madlad and isinstance(vocabulary, (SentencePieces, FastVocabulary)):
        return "madlad", STYLES["madlad"].codes(vocabulary.names())
    return None, ()


def listed_codes(said: TokenizerSays, lists: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The languages that tokenizer_config.json names by `language_codes`; by default the first."""
    name = said.config.get("language_codes") or next(iter(lists))
    if name not in lists:
        raise ValueError(
            f"{said.stated.path} says language_codes is {shown(name)}, which is not known: it "
            f"must be {' or '.join(map(repr, lists))}; else call generate with token ids"
        )
    return lists[name]
