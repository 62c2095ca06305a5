"""A child that is forked after a model was used goes on with it."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import os, signal, sys, warnings
import torch
import tritonseq
from tritonseq.demo.run import EMBEDDED

warnings.simplefilter("ignore")
torch.manual_seed(0)

def forked(act):
    "What `act` says in a child, which has a minute."
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            answer = repr(act())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung"
    return said
"""

OF_REAL_WIDTH = """
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel
torch.set_num_threads(2)
kinds = {"eos_token_id": None, "bos_token_id": 0, "pad_token_id": 0}
gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, vocab_size=999, **kinds))
bart = BartForConditionalGeneration(
    BartConfig(vocab_size=999, encoder_layers=1, decoder_layers=1, d_model=768, **kinds)
)
models = [tritonseq.from_transformers(gpt2), tritonseq.from_transformers(bart.bfloat16())]
ids = torch.randint(5, 999, (4, 32))
def ask():
    return [m.generate(ids, max_new_tokens=4, num_beams=2).tolist() for m in models]
before = ask()
assert forked(ask) == repr(before)
assert ask() == before
"""

OF_TEXTS = """
torch.set_num_threads(1)
model = tritonseq.load(EMBEDDED / "t5-dates", device="cpu")
texts = ["march the third", "", "may first 1999"]
def ask():
    texts_of = [r.text for r in tritonseq.pipeline(model, texts)]
    return model.generate_text(texts), texts_of, [*model.generate_each([[5, 6], [7]])]
before = ask()
assert forked(ask) == repr(before)
running = tritonseq.pipeline(model, texts * 40, window=4, preprocess_workers=1)
results = iter(running)
first = next(results).text
said = forked(lambda: list(results))
assert said.startswith("RuntimeError: this pipeline began before"), said
assert forked(running.close) == "None"
assert forked(ask) == repr(before)
assert [first, *(r.text for r in results)] == before[0] * 40
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_children_answer_at_real_width_with_several_threads() -> None:
    run(OF_REAL_WIDTH)


def test_children_answer_texts_and_leave_pipelines_of_their_parent_alone() -> None:
    run(OF_TEXTS)
