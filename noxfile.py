"""Tests with the oldest and the newest supported jax: `nox`, or `nox -s "tests-3.13(jax='newest')"`."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests", "docs"]

JAX = {"oldest": "jax==0.10.*", "newest": "jax<0.13"}
"""Name → the requirement of jax; jax 0.10 is the last line for Python 3.11."""


@nox.session(python=["3.11", "3.12", "3.13"])
@nox.parametrize("jax", list(JAX))
def tests(session: nox.Session, jax: str) -> None:
    """The whole test suite; arguments go to pytest."""
    session.install("-e", ".[dev]", JAX[jax])
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Lint, format and types."""
    session.run("tools/lint.sh", external=True)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The documentation, strictly."""
    session.run("tools/docs.sh", external=True)
