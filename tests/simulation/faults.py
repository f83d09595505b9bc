"""Makes the faults of a plan happen in a world, and ends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from simulation.fleet import GatewayProcess, Member, WorkerProcess
from simulation.swarm import Fault

if TYPE_CHECKING:
    from simulation.trial import World

LAG_S: Final = 1.5
"""How far a replica may be behind when it is promoted."""
STEPS_S: Final = (-3600.0, -60.0, -2.0, 2.0, 60.0, 3600.0)


class Faults:
    """The faults of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: dict[str, Callable[[Fault], None]] = {
            "partition": self._partition,
            "isolation": self._isolation,
            "delay": self._delay,
            "lost requests": self._lost_requests,
            "lost replies": self._lost_replies,
            "clock": self._clock,
            "pause": lambda fault: self._member(fault).process.pause(fault.seconds),
            "kill": self._kill,
            "shutdown": self._shut_down,
            "fail-over": lambda fault: self._fail_over(fault, demoted=False),
            "demotion": lambda fault: self._fail_over(fault, demoted=True),
            "restart": lambda fault: world.store.restart(away_s=fault.seconds),
            "slow store": self._slow_store,
            "broker loses": self._broker_loses,
            "broker doubles": self._broker_doubles,
            "broker away": self._broker_away,
        }

    def schedule(self, fault: Fault) -> None:
        """Have a fault happen when it is due."""
        self._world.timeline.at(fault.at, lambda: self._happen(fault))

    def _happen(self, fault: Fault) -> None:
        self._world.history.note("fault", fault.kind, str(fault))
        self._kinds[fault.kind](fault)

    def _member(self, fault: Fault) -> Member:
        members: list[Member] = [*self._world.workers, *self._world.gateways]
        return members[fault.who % len(members)]

    def _later(self, fault: Fault, call: Callable[[], object]) -> None:
        self._world.timeline.after(fault.seconds, call)

    # -- the network

    def _partition(self, fault: Fault) -> None:
        weather, link = (
            self._world.network.weather,
            (self._member(fault).process.name, self._world.store.ADDRESS),
        )
        weather.cut_at.add(link)

        def heal() -> None:
            weather.cut_at.discard(link)
            self._world.network.changed()

        self._later(fault, heal)

    def _isolation(self, fault: Fault) -> None:
        weather, name = self._world.network.weather, self._member(fault).process.name
        weather.cut.add(name)

        def heal() -> None:
            weather.cut.discard(name)
            self._world.network.changed()
            self._world.broker.deliver()

        self._later(fault, heal)

    def _delay(self, fault: Fault) -> None:
        slow, name = self._world.network.weather.slow, self._member(fault).process.name
        slow[name] = fault.amount * 0.8
        self._later(fault, lambda: slow.pop(name, None))

    def _lost_requests(self, fault: Fault) -> None:
        weather = self._world.network.weather
        weather.lost_requests = fault.amount * 0.1
        self._later(fault, lambda: setattr(weather, "lost_requests", 0.0))

    def _lost_replies(self, fault: Fault) -> None:
        weather = self._world.network.weather
        weather.lost_replies = fault.amount * 0.1
        self._later(fault, lambda: setattr(weather, "lost_replies", 0.0))

    # -- processes

    def _clock(self, fault: Fault) -> None:
        process = self._member(fault).process
        process.clock_ahead_s += STEPS_S[int(fault.amount * len(STEPS_S))]

    def _kill(self, fault: Fault) -> None:
        member = self._member(fault)
        self._forget(member)
        member.process.kill()
        self._later(fault, lambda: self._replace(member))

    def _shut_down(self, fault: Fault) -> None:
        member = self._member(fault)
        if isinstance(member, WorkerProcess):
            self._forget(member)
            member.shut_down()
            self._later(fault, lambda: self._replace(member))

    def _forget(self, member: Member) -> None:
        if isinstance(member, WorkerProcess):
            self._world.workers.remove(member)
        elif isinstance(member, GatewayProcess) and len(self._world.gateways) > 1:
            self._world.gateways.remove(member)

    def _replace(self, member: Member) -> None:
        name = member.process.name.partition(".")[0]
        if isinstance(member, WorkerProcess):
            self._world.add_worker(name)
        else:
            if member in self._world.gateways:
                self._world.gateways.remove(member)  # type: ignore[arg-type]
            self._world.add_gateway(name)

    # -- store and broker

    def _fail_over(self, fault: Fault, *, demoted: bool) -> None:
        """Freeze what the replica has now; it is promoted a little later."""
        store, timeline = self._world.store, self._world.timeline
        if store.is_away:
            return
        node, since = store.primary, timeline.now
        heard = node.data.copy()

        def promote() -> None:
            if store.primary is node and not store.is_away:
                store.fail_over(heard, since=since, away_s=fault.seconds, demoted=demoted)

        timeline.after(fault.amount * LAG_S, promote)

    def _slow_store(self, fault: Fault) -> None:
        node = self._world.store.primary
        node.slow_s = fault.amount * 0.05
        self._later(fault, lambda: setattr(node, "slow_s", 0.0))

    def _broker_loses(self, fault: Fault) -> None:
        broker = self._world.broker
        broker.lost = fault.amount
        self._later(fault, lambda: setattr(broker, "lost", 0.0))

    def _broker_doubles(self, fault: Fault) -> None:
        broker = self._world.broker
        broker.doubled = fault.amount
        self._later(fault, lambda: setattr(broker, "doubled", 0.0))

    def _broker_away(self, fault: Fault) -> None:
        broker = self._world.broker
        broker.is_up = False

        def back() -> None:
            broker.is_up = True
            broker.deliver()

        self._later(fault, back)
