"""Seats in virtual time: clocks that differ, connections that are slow or cut, processes that die, stop and come back.

Each seat dials every other. What is sent over a connection arrives in order or not at all. The law is looked at
after every event: no two seats serve at a time.
"""

import heapq
import itertools
import random
from collections import deque

from rallypoint.store.seats.election import Election

TENURE = 3.0
SPEEDS = (0.97, 1.05)  # a tenth apart is what the election allows


class Seat:
    """One seat's process, or what is left of it. ``links``: to which seats it has a connection, and which."""

    def __init__(self, lab, number, life):
        self.lab, self.number, self.life = lab, number, life
        self.name = f"{number}.{life}"
        self.speed, self.offset = lab.rng.uniform(*SPEEDS), lab.rng.uniform(0, 1000)
        self.running, self.alive = True, True
        self.waiting = []
        self.links = {}
        self.election = Election(number, lab.count, self.name, TENURE, self.now)
        self.due = None

    @property
    def now(self):
        return self.offset + self.lab.now * self.speed

    @property
    def serves(self):
        return self.alive and self.running and self.election.active(self.now)

    def act(self, call):
        """Do ``call`` now, or when the process goes on; then what the election wants."""
        if not self.alive:
            return
        if not self.running:
            self.waiting.append(call)
            return
        call()
        while asks := self.election.step(self.now):
            for seat, ask in asks:
                if (way := self.links.get(seat)) is not None:
                    way.send(lambda ask=ask, way=way: way.asked(ask))
        self.lab.check(self)
        due = self.election.wake_at()
        if due is not None and due != self.due:
            self.due = due
            self.lab.after((due - self.now) / self.speed + 1e-6, lambda: self.wake(due))

    def wake(self, due):
        if self.due == due:
            self.due = None
            self.act(lambda: None)


class Way:
    """One connection, from the process that asks to the one that answers; each direction is a queue."""

    def __init__(self, lab, asker, voter):
        self.lab, self.asker, self.voter = lab, asker, voter
        self.number = next(lab.ways)
        self.open = [True, True]  # at the asker's end, at the voter's
        self.queues = [deque(), deque()]

    def send(self, call, back=False):
        """Have ``call`` done at the other end, after all that was sent before."""
        self.queues[back].append(call)
        self.lab.after(self.lab.latency(), lambda: self.arrive(back))

    def arrive(self, back):
        """The next in the queue arrives; what is cut off waits, as in TCP."""
        if (self.asker.number, self.voter.number) in self.lab.cut:
            self.lab.after(0.2, lambda: self.arrive(back))
            return
        call = self.queues[back].popleft()
        end = self.asker if back else self.voter
        if self.open[not back]:
            end.act(lambda: self.open[not back] and call())

    def asked(self, ask):
        vote = self.voter.election.answer(self.asker.number, self.asker.name, ask, self.voter.now, self.number)
        if vote is not None:
            self.send(lambda: self.asker.election.voted(self.voter.number, vote, self.asker.now), back=True)

    def asker_closes(self):
        """By its own choice, or because it is dead: the voter's kernel learns of it, if it can."""
        if not self.open[0]:
            return
        if self.asker.alive:
            self.gone()
        self.open[0] = False
        self.send(self.closed)

    def closed(self):
        self.open[1] = False
        self.voter.election.closed(self.asker.number, self.asker.name, self.voter.now, self.number)

    def voter_closes(self):
        if self.open[1]:
            self.open[1] = False
            self.send(self.gone, back=True)

    def gone(self):
        self.open[0] = False
        if self.asker.links.get(self.voter.number) is self:
            del self.asker.links[self.voter.number]
            self.asker.election.unlinked(self.voter.number, self.asker.now)


class SeatsLab:
    """``count`` seats; ``cut`` holds the pairs (both ways each) between which nothing passes."""

    def __init__(self, count, seed):
        self.count, self.rng = count, random.Random(seed)
        self.now, self.cut, self.story = 0.0, set(), []
        self.slow = 0.0
        self._events, self._tie = [], itertools.count()
        self._lives, self.ways = itertools.count(), itertools.count()
        self.seats = {}
        self.last = None

    def latency(self):
        return self.rng.uniform(0.001, 0.02) + (self.rng.random() < self.slow) * self.rng.uniform(0, 2 * TENURE)

    def at(self, when, call):
        heapq.heappush(self._events, (when, next(self._tie), call))

    def after(self, seconds, call):
        self.at(self.now + max(0.0, seconds), call)

    def run(self, seconds):
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = end

    def check(self, acts):
        """Only who acts can do harm: it is asked at that moment, the others as they stand."""
        serving = [seat.name for seat in self.seats.values() if seat.serves]
        assert len(serving) <= 1, f"{serving} serve at {self.now:.3f}: {self.story[-12:]}"
        if acts.serves and self.last is not acts:
            self.last = acts
            self.tell(f"{acts.name} serves")

    def tell(self, text):
        self.story.append(f"{self.now:.3f} {text}")

    @property
    def serving(self):
        return next((seat for seat in self.seats.values() if seat.serves), None)

    # What happens to seats

    def start(self, number):
        seat = self.seats[number] = Seat(self, number, next(self._lives))
        self.tell(f"{seat.name} starts")
        seat.act(lambda: None)
        for other in range(self.count):
            if other != number:
                self.dial(seat, other)
        return seat

    def dial(self, seat, other):
        """Keep ``seat`` connected to whoever holds ``other``, as long as it lives."""
        if not seat.alive:
            return
        voter = self.seats.get(other)
        reached = voter is not None and voter.alive and voter.running and (seat.number, other) not in self.cut
        if other not in seat.links and seat.running and reached:
            way = Way(self, seat, voter)
            seat.links[other] = way
            seat.act(lambda: seat.election.linked(other, seat.now))
        self.after(self.rng.uniform(0.05, 0.3), lambda: self.dial(seat, other))

    def kill(self, number, silent=False):
        """``silent``: its machine has lost power, so nobody is told."""
        seat = self.seats[number]
        self.tell(f"{seat.name} dies{' with its machine' * silent}")
        seat.alive = False
        for way in list(seat.links.values()):
            if not silent:
                way.asker_closes()
            way.open[0] = False
        for other in self.seats.values():
            way = other.links.get(number)
            if way is not None and way.voter is seat:
                if silent:  # its keep-alive tells, at last
                    self.after(TENURE * 1.1, lambda way=way: way.asker.act(way.gone))
                else:
                    way.voter_closes()

    def stop(self, number):
        self.seats[number].running = False
        self.tell(f"{self.seats[number].name} is stopped")

    def resume(self, number):
        seat = self.seats[number]
        self.tell(f"{seat.name} goes on")
        seat.running = True
        waiting, seat.waiting = seat.waiting, []
        for call in waiting:
            seat.act(call)
        seat.act(lambda: None)

    def part(self, *islands):
        """Nothing passes between ``islands``; connections across last until their keep-alives tell."""
        where = {number: n for n, island in enumerate(islands) for number in island}
        self.cut = {(a, b) for a in where for b in where if where[a] != where[b]}
        self.tell(f"parted {islands}")
        for pair in self.cut:
            self.after(self.rng.uniform(1.0, 1.2) * TENURE, lambda pair=pair: self._silence(pair))

    def _silence(self, pair):
        seat = self.seats.get(pair[0])
        if pair in self.cut and seat is not None and (way := seat.links.get(pair[1])) is not None:
            seat.act(way.asker_closes)

    def heal(self):
        self.cut = set()
        self.tell("healed")
