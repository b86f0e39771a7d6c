"""The learning rung of InstructPix2Pix for video: better than copying, and the instruction is followed."""

from pathlib import Path

import pytest

from tests.learning import call, evaluation, values, write_results

pytestmark = [pytest.mark.learning, pytest.mark.nightly]

TOLD = (
    "Predicted frames of held-out edits beside a copy of the last frame and the round trip of the autoencoder: PSNR "
    "in dB, gains row by row over the copy, and the share of pairs (one history, two instructions) that both do what "
    "they are told, with 95 % intervals."
)


def test_edits_reach_their_numbers(tmp_path: Path) -> None:
    call("launchers.train experiment=pix2pix_video_tiny", tmp_path)
    call("launchers.evaluate experiment=pix2pix_video_tiny ckpt=last", tmp_path)
    record = evaluation(tmp_path, "pix2pix_video_tiny")
    write_results("InstructPix2Pix for video, tiny, on the built-in edits", record, told=TOLD)
    rows, value = record["rows"], values(record)
    assert rows["real"]["psnr"]["cases"] >= 400  # two rows for each of at least 200 histories
    assert value["vae_round_trip"]["psnr"] >= value["copy_last"]["psnr"] + 6  # what latents leave to be won
    assert value["real"]["psnr_gain"] >= 3
    assert value["real"]["ssim_gain"] > 0
    assert value["real"]["followed"] >= 0.90
    assert value["before_training"]["followed"] < 0.1
