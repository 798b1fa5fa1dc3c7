"""Run a study, or list them."""

import sys
from importlib import import_module

from riskvae.studies import STUDIES


def main(arguments: list[str]) -> int:
    """Run the study that the first argument names; return the exit status."""
    if not arguments or arguments[0] not in STUDIES:
        told = "\n".join(f"  {name:12}{study.about}\n{'':14}{study.time}" for name, study in STUDIES.items())
        asked = not arguments or arguments[0] in ("-h", "--help")
        unknown = "" if asked else f"There is no study {arguments[0]!r}.\n"
        print(f"{unknown}usage: python -m riskvae.studies NAME [--help]\n\n{told}")
        return 0 if asked else 2
    name = arguments[0]
    study = STUDIES[name]
    if not {"-h", "--help"} & set(arguments):
        time = "a few minutes" if "--quick" in arguments else f"{study.time} in all; a run that is stopped goes on"
        print(f"{name}: {study.about}\n{'seconds' if '--redraw' in arguments else time}", flush=True)
    from riskvae.studies._frame import Config

    config = Config.from_arguments(arguments[1:], name)
    try:
        import_module("matplotlib")  # before an hour of measurements, and not after it
        result = import_module(f"riskvae.studies.{name}").run(config)
    except OSError as error:  # data that are missing, cannot be read or cannot be fetched
        print(error, file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"{error}. The extra 'studies' of riskvae has what studies need.", file=sys.stderr)
        return 1
    folder = result.save(config)
    for title, table in result.tables.items():
        print(f"\n{title}\n\n{table}")
    print(f"\nresults, table and figures: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
