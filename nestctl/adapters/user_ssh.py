"""Log in to a machine as the user's own OpenSSH would: with the user's configuration, keys, agent and known hosts.

A host key that is not known, or revoked, is refused, and nothing is ever asked: many machines are looked at at once,
and by programs. Certificates of hosts are not understood: a machine has to be known by its key.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import paramiko

from nestctl.adapters.known_hosts import KnownKey, Marker, find_keys
from nestctl.adapters.ssh import DirectRoute, JumpRoute, SshShell, Stream, Transport
from nestctl.adapters.ssh_options import Destination, SshOptions, read_options
from nestctl.deadline import Deadline
from nestctl.errors import UnreachableError, UsageError

# More hops than anyone has: the configuration sends them in a circle.
_LONGEST_WAY = 8


@contextmanager
def open_user_ssh(name: str, destination: Destination, *, deadline: Deadline) -> Iterator[SshShell]:
    """Log in once, hopping where the configuration says so (ProxyJump), and close everything in the end.

    Raises `UnreachableError` when nobody answers, the host key is not known or the user is not let in, `DeadlineError`
    when that takes too long and `UsageError` when the configuration is wrong.
    """
    with ExitStack() as stack:
        yield _open(name, destination, None, deadline, stack, 0)


def _open(
    name: str, destination: Destination, through: SshShell | None, deadline: Deadline, stack: ExitStack, hops: int
) -> SshShell:
    if hops > _LONGEST_WAY:
        raise UsageError(f"The way to '{name}' has more than {_LONGEST_WAY} hops: ProxyJump goes in a circle.")
    options = read_options(destination)
    # As OpenSSH does: only the first hop is reached as its own configuration says.
    if through is None:
        for jump in options.jumps:
            through = _open(jump.host, jump, through, deadline, stack, hops + 1)
    try:
        stream = _open_stream(options, through, deadline, stack)
        client = stack.enter_context(paramiko.SSHClient())
        _log_in(client, stream, name, options, deadline)
    except (paramiko.SSHException, EOFError, OSError) as error:
        deadline.check()
        _explain(error, name, options)
    transport = client.get_transport()
    if transport is None:
        raise AssertionError("connect() makes a transport or raises")
    return SshShell(name=name, transport=transport)


def _log_in(client: paramiko.SSHClient, stream: Stream, name: str, options: SshOptions, deadline: Deadline) -> None:
    # No key is loaded into paramiko: it asks about each.
    known = _find_known(options)
    client.set_missing_host_key_policy(_Judge(name, options, known))

    def make_transport(stream: Any, **_: Any) -> Transport:
        transport = Transport(stream)
        transport.handshake_timeout = deadline.remaining_s
        _prefer({key.kind for key in known if key.marker is Marker.NONE}, transport.get_security_options())
        return transport

    keys = [path for path in options.identity_files if Path(path).is_file()]
    client.connect(
        options.host,
        options.port,
        username=options.user,
        key_filename=keys,  # type: ignore[arg-type]  # the stubs know one file only
        allow_agent=options.uses_agent and not options.identities_only,
        look_for_keys=not (options.identity_files or options.identities_only),
        sock=stream,
        timeout=deadline.remaining_s,
        banner_timeout=deadline.remaining_s,
        auth_timeout=deadline.remaining_s,
        transport_factory=make_transport,
    )


def _open_stream(options: SshOptions, through: SshShell | None, deadline: Deadline, stack: ExitStack) -> Stream:
    deadline.check()
    if through:
        route = JumpRoute(through=through, host=options.host, port=options.port)
        return route.open_stream(deadline.remaining_s)
    if options.proxy_command:
        proxy = _Proxy(options.proxy_command)
        stack.callback(proxy.close_pipes)
        return proxy  # type: ignore[return-value]  # it is what Transport takes
    return DirectRoute(host=options.host, port=options.port).open_stream(deadline.remaining_s)


class _Proxy(paramiko.ProxyCommand):
    """The process of a ProxyCommand; paramiko's own leaves it a zombie, and fails when it has ended by itself."""

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


def _explain(error: Exception, name: str, options: SshOptions) -> NoReturn:
    place = f"{options.host} port {options.port}"
    if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
        raise UnreachableError(
            f"'{name}' does not let '{options.user}' in by any key: {str(error).rstrip('.')}.",
            hint=f"Make '{_ssh_command(options)} true' work without a question: ssh-copy-id, ssh-add for a key with a "
            "passphrase.",
        ) from error
    if isinstance(error, socket.gaierror):
        raise UnreachableError(f"'{name}' cannot be reached: the name '{options.host}' is not known.") from error
    said = getattr(error, "strerror", None) or str(error) or "the connection was closed"
    raise UnreachableError(f"'{name}' cannot be reached ({place}): {said.rstrip('.')}.") from error


def _find_known(options: SshOptions) -> tuple[KnownKey, ...]:
    """Return what is known of a machine; by its name without the port too, as OpenSSH, where it has no key with it."""
    files = options.known_hosts_files
    found = find_keys(files, _known_name(options))
    if any(key.marker is Marker.NONE for key in found):
        return found
    return found + find_keys(files, options.known_as or options.host)


def _prefer(kinds: set[str], security: paramiko.transport.SecurityOptions) -> None:
    """Ask the machine for a key of a kind that is known first: it may have several."""

    def is_known(algorithm: str) -> bool:
        return ("ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm) in kinds  # RFC 8332, section 3

    security.key_types = sorted(security.key_types, key=is_known, reverse=True)


class _Judge(paramiko.MissingHostKeyPolicy):
    """Lets nobody in whose key is not known, or revoked, and says what to do."""

    def __init__(self, name: str, options: SshOptions, known: tuple[KnownKey, ...]) -> None:
        self._name = name
        self._options = options
        self._known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        del client, hostname
        same = {known.marker for known in self._known if known.blob == key.asbytes()}
        if Marker.REVOKED in same:
            raise UnreachableError(
                f"The host key of '{self._name}' is revoked, {_say_key(key)}: somebody else may have it.",
                hint="Give the machine a new key, or take the line '@revoked' out of the known hosts.",
            )
        if Marker.NONE in same:
            return
        plain = [known for known in self._known if known.marker is Marker.NONE and known.kind == key.get_name()]
        if plain:
            self._refuse_changed(plain[0], key)
        self._refuse_unknown(key)

    def _refuse_changed(self, known: KnownKey, key: paramiko.PKey) -> NoReturn:
        raise UnreachableError(
            f"The host key of '{self._name}' has changed: known is {known.title}, and the machine shows "
            f"{_say_key(key)}.",
            hint=f"If it was installed anew, forget the old key: ssh-keygen -R '{_known_name(self._options)}'. If not, "
            "somebody else answers.",
        )

    def _refuse_unknown(self, key: paramiko.PKey) -> NoReturn:
        options = self._options
        file = options.known_hosts_files[0] if options.known_hosts_files else Path("~/.ssh/known_hosts")
        only = ""
        if any(known.marker is Marker.AUTHORITY for known in self._known):
            only = " Only an authority for it is known, and certificates of hosts are not understood here."
        raise UnreachableError(
            f"The host key of '{self._name}' is not known: the machine shows {_say_key(key)}.{only}",
            hint=f"Compare it with the machine's own, then log in once ({_ssh_command(options)}), or "
            f"ssh-keyscan -p {options.port} {options.host} >> {file}",
        )


def _say_key(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _known_name(options: SshOptions) -> str:
    """Say under which name a machine stands among the known hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return options.known_as or (options.host if options.port == 22 else f"[{options.host}]:{options.port}")


def _ssh_command(options: SshOptions) -> str:
    port = "" if options.port == 22 else f" -p {options.port}"
    return f"ssh{port} {options.user}@{options.host}"
