"""Fast exact generation with encoder-decoder and small decoder models: T5, BART, GPT-2."""

from importlib.metadata import version as _version

from .config import GenerationConfig
from .model import Model, from_transformers, load
from .outputs import GenerateOutput
from .trie import Trie

__version__ = _version("tritonseq")
__all__ = ["GenerateOutput", "GenerationConfig", "Model", "Trie", "from_transformers", "load"]
