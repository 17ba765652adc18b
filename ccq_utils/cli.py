"""The ``ccq`` command: one subcommand per thing to do."""

import argparse
import sys

from ccq_utils.errors import StudyError


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code. A ``StudyError`` becomes one line on stderr and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except StudyError as error:
        print(f"ccq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="ccq", description="A study of compressed concatenation of embedding models.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the notebooks of a profile, resuming where a run stopped")
    _add_profile(run)
    run.add_argument("--only", default="", metavar="NN", help="one notebook, by number (03) or name")
    run.add_argument("--force", action="store_true", help="run notebooks again even if nothing changed")
    run.add_argument("--output", default="", metavar="DIR", help="write everything below DIR, not into the checkout")
    run.set_defaults(action=_run)

    verify = commands.add_parser("verify", help="hold a run against the committed tables and claims")
    _add_profile(verify)
    verify.add_argument(
        "--run", default="", metavar="DIR", help="a finished run's --output folder; runs anew without it"
    )
    verify.set_defaults(action=_verify)

    publish = commands.add_parser("publish", help="copy a finished run's notebooks, cleaned, over the committed ones")
    _add_profile(publish)
    publish.set_defaults(action=_publish)
    return parser


def _add_profile(parser):
    parser.add_argument("--profile", default="default", metavar="NAME_OR_PATH", help="name or YAML file")


def _run(options):
    from ccq_utils import runner  # jupyter and papermill take a second to import

    return runner.run(options.profile, options.only, options.force, options.output)


def _verify(options):
    from pathlib import Path

    from ccq_utils import paths, run_report, runner, verify
    from ccq_utils.profile import load_profile

    name, folder = load_profile(options.profile).name, Path(options.run or paths.BUILD / "verify" / options.profile)
    if not options.run and (code := runner.run(options.profile, output=str(folder))):
        return code
    found = verify.verify(name, folder)
    found.to_csv(folder / "verify.csv", index=False)
    code = verify.show(found, verify.likely_causes(paths.results_folder(name), folder / "results"))
    print(f"every row: {run_report.shown(folder / 'verify.csv')}")
    return code


def _publish(options):
    from ccq_utils.publish import publish
    from ccq_utils.run_report import shown

    for path in publish(options.profile):
        print(shown(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
