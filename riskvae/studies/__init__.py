"""Published results and comparisons, each reproduced by one command: ``python -m riskvae.studies NAME``.

In the house: studies are at the top and use only the public names of the library. A study is a module with
``run(config) -> StudyResult``.
"""

from typing import TYPE_CHECKING, Any

from riskvae.studies._catalog import STUDIES, Study

if TYPE_CHECKING:
    from riskvae.studies._frame import Config, StudyResult

__all__ = ["STUDIES", "Config", "Study", "StudyResult"]


def __getattr__(name: str) -> Any:
    # The commands say what they do before torch is loaded, which takes seconds.
    if name in ("Config", "StudyResult"):
        from riskvae.studies import _frame

        return getattr(_frame, name)
    raise AttributeError(f"module 'riskvae.studies' has no attribute {name!r}")
