"""A session runs the blocks of one page, in order, in an empty directory with the sample files."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

from tests.documentation.not_run import NOT_RUN, check_vaekit
from tests.documentation.pages import PYTHONS, SHELLS, Block
from tests.documentation.shell import Command, read_commands
from vaekit.cli.main import main

PLAIN = {"ls", "cat", "head", "tail", "mkdir", "cp", "mv", "rm", "echo", "grep", "wc", "sort", "unzip", "gunzip"}
FEWER = {"gradients": ["--num_estimates", "16"], "map": ["--max_steps", "20"]}  # so that a page takes seconds


class Session:
    """A shell and a Python interpreter that share the working directory.

    ``run`` raises an AssertionError with the line of the page if a command or statement fails.
    """

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.num_run = 0
        self.seconds: list[str] = []  # of each block
        self.reasons: list[str] = []  # of the commands that were not run

    def run(self, block: Block) -> None:
        """Run a block, or check it if it is an exception."""
        start = time.perf_counter()
        if block.language in PYTHONS:
            self._run_python(block)
        elif block.language in SHELLS:
            for command in read_commands(block.text, block.language):
                self._run_command(command, block)
        self.seconds.append(f"{time.perf_counter() - start:6.2f} {block.place}")

    def _run_python(self, block: Block) -> None:
        """Execute a block in the namespace of the page. Tracebacks show the lines of the page."""
        text = block.text
        if block.language == "pycon":
            lines = [line for line in text.splitlines() if line.startswith((">>> ", "... ", ">>>", "..."))]
            text = "\n".join(line[4:] for line in lines)
        code = compile("\n" * (block.line - 1) + text, str(block.page), "exec")
        if block.reason:
            self.reasons.append(f"{block.place}: {block.reason}")
            return
        self.num_run += 1
        previous, sys.modules["__main__"] = sys.modules["__main__"], self.module
        try:
            exec(code, self.module.__dict__)
        except Exception:
            raise AssertionError(f"{block.place}: the Python block fails\n{traceback.format_exc()}") from None
        finally:
            sys.modules["__main__"] = previous

    def _run_command(self, command: Command, block: Block) -> None:
        place = f"{block.place}: {' '.join(command.words)}"
        if command.words[:3] == ["python", "-m", "vaekit.cli.main"]:
            command.words[:3] = ["vaekit"]
        try:
            if command.program == "vaekit" and not block.reason:
                self._run_vaekit(command)
            elif command.program == "vaekit":
                check_vaekit(command.words)
                self.reasons.append(f"{place}: {block.reason}")
            elif not command.words or command.program == "export":
                words = dict(word.split("=", 1) for word in command.words[1:])
                os.environ.update(command.variables | words)
            elif command.program == "cd":
                os.chdir(command.words[1])
            elif command.program in NOT_RUN:
                reason, check = NOT_RUN[command.program]
                check(command.words)
                self.reasons.append(f"{place}: {reason}")
            else:
                assert command.program in PLAIN, (
                    "not a program that the tests run. Add it to PLAIN or NOT_RUN, or write <!-- not run: reason --> "
                    "in the line before the block."
                )
                self._run_program(command, "")
        except AssertionError as error:
            raise AssertionError(f"{place}\n{error}") from None

    def _run_vaekit(self, command: Command) -> None:
        """Run a command of vaekit in this process, since starting torch takes longer than most of them."""
        self.num_run += 1
        arguments = command.words[1:]
        arguments += FEWER.get(arguments[0], []) if arguments else []
        output, errors, status = io.StringIO(), io.StringIO(), 0
        environment = dict(os.environ)
        os.environ.update(command.variables)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                status = main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        except Exception:
            raise AssertionError(f"{errors.getvalue()}\n{traceback.format_exc()}") from None
        finally:
            os.environ.clear()
            os.environ.update(environment)
        assert status == 0, f"status {status}\n{output.getvalue()}\n{errors.getvalue()}"
        if command.target:
            with Path(command.target).open("a" if command.appends else "w") as file:
                file.write(output.getvalue())
        elif command.pipe:
            self._run_program(Command([], pipe=command.pipe), output.getvalue())
        else:
            print(output.getvalue(), end="")

    def _run_program(self, command: Command, text: str) -> None:
        import shlex

        line = command.pipe or " ".join(word if "*" in word else shlex.quote(word) for word in command.words)
        line += f" {'>>' if command.appends else '>'} {command.target}" if command.target else ""
        done = subprocess.run(["bash", "-c", line], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
