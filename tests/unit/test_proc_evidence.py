import os

import pytest

from rallypoint.proc.evidence import Cgroup, KernelLog, OomEvidence

RECORD = (
    b"4,812,1000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    b"oom_memcg=/job,task_memcg=/job/worker,task=python,pid=%d,uid=0\n SUBSYSTEM=x\n"
)


class Machine:
    """A recorded /sys/fs/cgroup and /proc."""

    def __init__(self, root, version):
        self.root = root
        self.files = {1: ("memory.oom_control", "memory.limit_in_bytes"), 2: ("memory.events", "memory.max")}[version]
        self.mount = root / "memory" if version == 1 else root
        self.own = self.mount / "job" / "worker"
        self.own.mkdir(parents=True)
        if version == 2:
            (root / "cgroup.controllers").write_text("memory")
        membership = {1: "3:cpuset:/\n4:memory:/job/worker\n0::/\n", 2: "0::/job/worker\n"}[version]
        (root / "self").write_text(membership)
        self.kills(cgroup=0, machine=5)

    def kills(self, cgroup, machine):
        (self.own / self.files[0]).write_text(f"oom 7\noom_kill {cgroup}\n")
        (self.root / "vmstat").write_text(f"nr_free 1\noom_kill {machine}\nzone 3\n")

    def limit(self, folder, text):
        (folder / self.files[1]).write_text(text)

    def evidence(self):
        evidence = OomEvidence(str(self.root), str(self.root / "self"), str(self.root / "vmstat"))
        evidence.remember()
        evidence._log.close()  # the real kernel's log has no place here
        return evidence


@pytest.fixture(params=[1, 2])
def machine(request, tmp_path):
    return Machine(tmp_path, request.param)


def test_a_plain_kill_claims_nothing(machine):
    assert machine.evidence().words(1) == ""
    assert OomEvidence().words(1) == ""


def test_the_cgroups_counter_names_the_smallest_limit_above(machine):
    machine.limit(machine.own, {1: "9223372036854771712"}.get(machine.files[0] == "memory.oom_control", "max"))
    machine.limit(machine.own.parent, str(2 << 30))
    evidence = machine.evidence()
    machine.kills(cgroup=1, machine=6)
    assert evidence.words(1) == "out of memory: the cgroup's limit of 2 GiB was reached"
    assert evidence.words(2) == "", "one kill explains one process"


def test_the_cgroups_counter_without_a_limit(machine):
    evidence = machine.evidence()
    machine.kills(cgroup=1, machine=6)
    assert evidence.words(1) == "out of memory: killed by the kernel's OOM killer"


def test_the_machines_counter_is_likely_only(machine):
    evidence = machine.evidence()
    machine.kills(cgroup=0, machine=6)
    assert evidence.words(1).startswith("likely out of memory")
    assert evidence.words(2) == ""


def test_what_was_before_is_no_evidence(machine):
    evidence = machine.evidence()
    machine.kills(cgroup=3, machine=9)
    evidence.remember()
    evidence._log.close()
    assert evidence.words(1) == ""


def test_the_kernels_log_names_the_pid_and_the_limit(machine):
    machine.limit(machine.own.parent, str(3 << 29))
    evidence = machine.evidence()
    evidence._log._note(RECORD % 77)
    machine.kills(cgroup=1, machine=6)
    assert evidence.words(76) == "", "the log says who it was"
    assert evidence.words(77) == "out of memory: the cgroup's limit of 1.5 GiB was reached"


def test_the_log_is_read_to_its_end_over_gaps_and_foreign_records():
    log = KernelLog()
    log._note(b"6,1,1,-;usb 1-1: new device\n")
    log._note(b"4,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,pid=bad\n")
    log._note(b"4,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,task=x,pid=5,uid=0\n")
    assert log.victims == {5: ""}


def test_no_cgroups_at_all(tmp_path):
    evidence = OomEvidence(str(tmp_path), str(tmp_path / "none"), str(tmp_path / "none"))
    evidence.remember()
    evidence.close()
    assert evidence.words(1) == ""


def test_a_path_that_is_the_hosts_falls_back_to_the_containers_root(tmp_path):
    assert Cgroup(str(tmp_path), "/docker/abc", 2).folder == str(tmp_path)
    assert Cgroup(str(tmp_path), "/", 2).folder == str(tmp_path)


def test_on_this_machine_nothing_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    evidence = OomEvidence()
    evidence.remember()
    assert evidence.words(os.getpid()) == ""
    evidence.close()
    assert len(os.listdir("/proc/self/fd")) == before
