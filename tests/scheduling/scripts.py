"""What routers answer in a simulated flow."""

from driver import Script

from asyncflow._scheduling.messages import Invocation

TURNS = 4


def turning(**routers: tuple[str, str]) -> Script:
    """Each router answers its first label until it has run `TURNS` times, then its second."""

    def script(invocation: Invocation) -> str | None:
        again, done = routers.get(invocation.method, (None, None))
        return again if invocation.occurrence < TURNS else done

    return script


def answering(**labels: str | None) -> Script:
    return lambda invocation: labels.get(invocation.method)
