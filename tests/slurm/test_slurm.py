"""What a user of a SLURM cluster relies on, on a real SLURM: two virtual nodes on this machine."""

from tests.slurm.conftest import User, saved, steps

TWO = ("trainer.devices=2", "trainer.strategy=ddp")


def test_two_tasks_train_one_run(user: User) -> None:
    job = user.submit(*TWO)
    assert user.end(job) == "COMPLETED", user.logs()
    assert [step for _, step in steps(job, 0)] == [step for _, step in steps(job, 1)] == list(range(12))
    assert saved(job) == [12]
