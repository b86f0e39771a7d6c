"""InstructPix2Pix for video: the next frame from a history of frames and an instruction."""
