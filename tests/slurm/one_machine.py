"""A real SLURM on one machine: two virtual nodes, started and stopped by process id, without systemd.

python -m tests.slurm.one_machine FOLDER       starts it, prints what to export, and stops it on Ctrl-C or SIGTERM

Everything it writes, its sockets and its key lie in FOLDER; its ports are free ones. So several may run at once, and
the SLURM of a real cluster is not touched.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
NODES = ("node1", "node2")
PACKAGES = "slurm-wlm munge"
NODE = "ONE_MACHINE_DAEMON"  # marks the daemons and what they start to watch over jobs

# cred_expire: a job that is put back waits as long, two minutes by default; its old srun, which would end a new step of
# the same number too, is gone after 12 seconds. config_overrides: the nodes have more cores
# than the machine. preempt_send_user_signal: a job that makes room gets the signal it asked for, not SIGTERM alone.
CONFIG = """
ClusterName=one-machine
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=5
SlurmdTimeout=20
SlurmctldTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
{more}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 MaxTime=INFINITE State=UP
PartitionName=spare Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE State=UP
"""


def problem() -> str | None:
    """Why there can be no SLURM here; None when there can be one."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    return f"no {', '.join(missing)} here (apt-get install {PACKAGES})" if missing else None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """The daemons, and the commands of a user."""

    def __init__(self, folder: Path, *, user_signal: bool = True) -> None:
        """
        Args:
            folder: for all of its files; short, for a path of a socket has at most 107 characters.
            user_signal: whether a job that must make room gets the signal it asked for; SIGTERM alone otherwise.
        """
        self.folder = folder
        self.user_signal = user_signal
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a user of this cluster has in the environment, with all processes on this machine."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return inherited | {"SLURM_CONF": str(self.folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1", "PATH": path}

    def start(self) -> None:
        """Starts the daemons and returns when both nodes are idle."""
        host = socket.gethostname().split(".")[0]
        control, first, second = free_ports(3)
        more = "SlurmctldParameters=preempt_send_user_signal" if self.user_signal else ""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                host=host,
                control=control,
                first=first,
                second=second,
                user=getpass.getuser(),
                folder=self.folder,
                more=more,
            )
        )
        self._start_munge()
        self._start("slurmctld", "slurmctld", "-D", "-i", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "both nodes are idle")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        names = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._start("munged", "munged", "--foreground", "--force", f"--seed-file={self.folder}/munge.seed", *options)
        self.wait(lambda: (self.folder / "munge.socket").exists(), "munged listens")

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node."""
        self._start(node, "slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", node)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            path = _program(program)
            assert path is not None
            environment = self.environment | {NODE: name}
            self.daemons[name] = subprocess.Popen(
                [path, *arguments], stdout=out, stderr=out, env=environment, start_new_session=True
            )

    def kill_node(self, node: str) -> None:
        """What a power cut does to a node: its daemons and all that runs on it are gone before one could tell."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self._with(f"{NODE}={node}"):  # the daemon, and those that watch over jobs
                _kill(pid, number)
        for pid in self._with(f"SLURMD_NODENAME={node}"):
            _kill(pid, signal.SIGKILL)
        self.daemons.pop(node).wait()

    def _with(self, variable: str) -> set[int]:
        """Processes of this cluster with a variable: those of jobs are not children of the daemons any more."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:  # it has ended, or is another user's
                continue
            ours = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
            if {ours, variable.encode()} <= {*variables}:
                found |= {int(path.parent.name)}
        return found

    def run(self, *command: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def states(self) -> dict[str, str]:
        """State of each job that SLURM still knows, members of arrays one by one."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return {job: state for job, state in (line.split() for line in lines)}

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        """Waits until a condition holds.

        Raises:
            TimeoutError: it does not, with the state of the queue.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not after {seconds} s\n{self.run('squeue', '-t', 'all')}{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "".join(f"--- {path.name}\n{path.read_text()[-1500:]}\n" for path in files)

    def stop(self) -> None:
        """Ends jobs and daemons, by process id."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            self.run("scancel", f"--user={getpass.getuser()}")
        for name in ("slurmctld", *NODES, "munged"):
            for pid in self._with(f"{NODE}={name}") | self._with(f"SLURMD_NODENAME={name}"):
                _kill(pid, signal.SIGKILL)
        for daemon in self.daemons.values():
            daemon.wait()
        self.daemons = {}


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    if (reason := problem()) is not None:
        sys.exit(reason)
    stops = {signal.SIGINT, signal.SIGTERM}
    cluster = Cluster(Path(sys.argv[1]).resolve())
    try:
        cluster.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        print(
            *(f"export {name}={cluster.environment[name]}" for name in ("SLURM_CONF", "MASTER_ADDR")),
            sep="\n",
            flush=True,
        )
        signal.sigwait(stops)
    finally:
        cluster.stop()
