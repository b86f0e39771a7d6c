"""Published weights into a model of transformers: all of its parameters, or an error."""

import logging
from typing import Any

from transformers.utils import logging as transformers_logging

log = logging.getLogger(__name__)


def load_pretrained(model_class: Any, weights: str, **settings: Any) -> Any:
    """Loads a model, every parameter from its file.

    transformers fills what a file lacks with random numbers and reports it among its warnings; here that is an error.
    Tensors that belong to other parts (the text tower of a CLIP, when its vision tower is asked for) are counted in
    one line.

    Args:
        model_class: class or auto class of transformers.
        weights: folder or Hub id.
        **settings: of its `from_pretrained`.

    Raises:
        ValueError: the file lacks parameters of the model.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model, found = model_class.from_pretrained(weights, output_loading_info=True, **settings)
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{weights} lacks {len(missing)} parameters of {type(model).__name__} (first: {missing[:3]}); "
            "it is another model, or a shard is missing"
        )
    if unused := sorted(found["unexpected_keys"]):
        log.info("%s: %d tensors of other parts are not used, such as %s", weights, len(unused), unused[0])
    return model
