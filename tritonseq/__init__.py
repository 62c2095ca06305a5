"""Fast exact generation with models of the GPT-2 family; encoder-decoder models are to come."""

from importlib.metadata import version as _version

from .config import GenerationConfig
from .model import Model, from_transformers, load
from .outputs import GenerateOutput

__version__ = _version("tritonseq")
__all__ = ["GenerateOutput", "GenerationConfig", "Model", "from_transformers", "load"]
