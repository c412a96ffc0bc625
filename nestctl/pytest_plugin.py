"""A pytest plugin: a pytest-testinfra host for every guest of a running lab, at every level.

    pytest --nestctl-lab demo

    @pytest.mark.nestctl_nodes("web*", level=2)
    def test_it_is_there(nestctl_host):
        assert nestctl_host.file("/dev/kvm").exists

pytest loads this module wherever nestctl is installed: it imports nothing that is not needed until a test asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nestctl.lab.nodes import Node

_MARKER = (
    "nestctl_nodes(*patterns, level=None): the guests of the lab that 'nestctl_host' and 'nestctl_node' are, one after "
    "the other: those whose names fit one of the patterns, and that are of the level if one is given; all by default."
)

_NODES = pytest.StashKey[tuple[Any, ...]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nestctl", "guests inside guests")
    group.addoption(
        "--nestctl-lab",
        metavar="LAB",
        help="the lab that 'nestctl_host' and 'nestctl_node' are guests of: a lab file, or a lab's name. It is up.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that wants a guest once for each guest it is about."""
    if "nestctl_node" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--nestctl-lab") is None:
        skipped = pytest.mark.skip(reason="needs a running lab: --nestctl-lab LAB")
        metafunc.parametrize("nestctl_node", [pytest.param(None, marks=skipped)], ids=["no lab"], indirect=True)
        return
    nodes = _select(_nodes(metafunc.config), metafunc.definition.get_closest_marker("nestctl_nodes"))
    metafunc.parametrize("nestctl_node", nodes, ids=[node.name for node in nodes], indirect=True, scope="session")


@pytest.fixture(scope="session")
def nestctl_node(request: pytest.FixtureRequest) -> Node:
    """A guest of the lab: its `name`, `lab`, `level`, `path`, and `guest`, what the lab file says of it."""
    node: Node = request.param
    return node


@pytest.fixture(scope="session")
def nestctl_host_of(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Return a function that gives the testinfra host of a guest by its name: for tests of several guests."""
    if request.config.getoption("--nestctl-lab") is None:
        pytest.skip("needs a running lab: --nestctl-lab LAB")
    nodes = {node.name: node for node in _nodes(request.config)}

    def host_of(name: str) -> Any:
        if name not in nodes:
            pytest.fail(f"The lab has no guest '{name}'; it has {', '.join(nodes)}.", pytrace=False)
        return _open(nodes[name])

    return host_of


@pytest.fixture(scope="session")
def nestctl_host(nestctl_node: Node) -> Any:
    """The testinfra host of a guest: commands, files, services, processes, as they are inside it."""
    return _open(nestctl_node)


def _nodes(config: pytest.Config) -> tuple[Node, ...]:
    """Find the lab's guests, once. That there is no such lab is an error of the collection, in a sentence."""
    if _NODES not in config.stash:
        from nestctl.errors import NestctlError
        from nestctl.lab.nodes import list_nodes
        from nestctl.lab.store import expect_up, find_lab

        try:
            lab = find_lab(config.getoption("--nestctl-lab"))
            expect_up(lab)
        except NestctlError as error:
            raise pytest.Collector.CollectError(
                " ".join(filter(None, (f"--nestctl-lab: {error.message}", error.hint)))
            ) from error
        config.stash[_NODES] = list_nodes(lab)
    return config.stash[_NODES]


def _select(nodes: tuple[Node, ...], marker: pytest.Mark | None) -> tuple[Node, ...]:
    if marker is None:
        return nodes
    from fnmatch import fnmatchcase

    patterns, level = marker.args or ("*",), marker.kwargs.get("level")
    found = tuple(
        node
        for node in nodes
        if any(fnmatchcase(node.name, pattern) for pattern in patterns) and level in {None, node.level}
    )
    if not found:
        # pytest would skip a test without parameters: a mistyped name must not pass unseen.
        wanted = ", ".join(f"'{pattern}'" for pattern in patterns) + (f" at level {level}" if level else "")
        raise pytest.Collector.CollectError(
            f"nestctl_nodes: the lab '{nodes[0].lab}' has no guest {wanted}; it has "
            + ", ".join(f"{node.name} (level {node.level})" for node in nodes)
            + "."
        )
    return found


def _open(node: Node) -> Any:
    try:
        import testinfra
    except ImportError:
        pytest.fail("Hosts need pytest-testinfra: install 'pytest-testinfra'.", pytrace=False)
    return testinfra.get_host(f"ssh://{node.name}", ssh_config=str(node.directory / "ssh_config"))
