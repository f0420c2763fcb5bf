"""The command line: `inr COMMAND …`. Exit status 0 done, 1 something the user can mend, 2 usage."""

import sys
import warnings

from ..errors import InrError, suggestion


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if not debug:
        warnings.formatwarning = _line
    arguments = [a for a in arguments if a != "--debug"]
    name = next((a for a in arguments if not a.startswith("-")), None)
    if "--version" in arguments and name is None:
        from importlib.metadata import version
        sys.stdout.write(f"inr-scenes {version('inr-scenes')}\n")
        return 0
    if name is None:
        sys.stdout.write(_help())
        return 0 if arguments else 2
    try:
        command = _command(name)
        if command is None:
            from ..builtin import COMMANDS
            sys.stderr.write(f"inr: there is no command {name!r}.{suggestion(name, COMMANDS)} See inr --help.\n")
            return 2
        arguments.remove(name)
        result = _resolve(command.run)(arguments)
        if result is not None:
            from .common import emit
            emit(result, "--json" in arguments)
        return 0
    except InrError as error:
        if debug:
            raise
        sys.stderr.write(f"inr {name}: {error}\n")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"inr {name}: interrupted.\n")
        return 130
    except OSError as error:                    # a disk that is full, a network drive that went away
        if debug:
            raise
        sys.stderr.write(f"inr {name}: {error.strerror or error}{f': {error.filename}' if error.filename else ''}.\n")
        return 1
    except (MemoryError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        if debug or not (isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text):
            raise                               # torch says so by a RuntimeError
        sys.stderr.write(f"inr {name}: out of memory ({text}). Take a smaller --resolution, --size or --batch.\n")
        return 1


def _command(name: str):
    """Return the command: a built-in one without loading plugins, else a plugin's."""
    from ..builtin import inr_commands
    for command in inr_commands():
        if command.name == name:
            return command
    from ..plugins import host
    known = any(c.name == name for c, _ in host().collect("inr_commands"))
    return host().find("inr_commands", "command", name) if known else None


def _line(message, category, filename, lineno, line=None) -> str:
    """Format a warning as a line for people; where it was raised helps none of them."""
    return f"warning: {message}\n"


def _resolve(run):
    if not isinstance(run, str):
        return run
    import importlib
    module, _, function = run.partition(":")
    return getattr(importlib.import_module(module), function)


def _help() -> str:
    from ..builtin import COMMANDS
    lines = "".join(f"  {name:<9} {text}\n" for name, text in COMMANDS.items())
    return ("usage: inr COMMAND …\n\nTurn signals into implicit neural representations, and back.\n\n"
            f"commands:\n{lines}\n"
            "inr COMMAND --help   flags of a command; inr fit FIELD --help: of one field alone\n"
            "inr plugins          what is installed; plugins may bring further commands\n"
            "--json               one JSON object on stdout · --debug: the traceback of an error\n")


if __name__ == "__main__":
    sys.exit(main())
