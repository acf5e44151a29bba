"""A device and the server as two processes on real, encrypted sockets."""

from __future__ import annotations

import numpy as np
import pytest

from split_model.protocol.device import Answered


@pytest.mark.parametrize("cut", [0, 1])
def test_the_answer_is_that_of_the_whole_model_bit_for_bit(shared_server, connect, model, cut):
    device = connect(shared_server, shared_server.new_keys(f"bitwise{cut}")).greet()
    for number in range(3):
        frame = model.frame(number)
        sent = model.features(frame) if cut else frame
        answer = device.ask(model.request(number, cut=cut, total_bytes=sent.nbytes), sent)
        assert isinstance(answer, Answered)
        assert [(t.dtype, t.shape) for t in answer.answer.tensors] == [("float32", (1, 10))]
        assert bytes(answer.payload) == model.whole(frame).tobytes()


def test_a_noise_release_is_undone_before_the_tail(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("noise")).greet()
    frame = model.frame(1)
    release, payload = model.noise(model.features(frame), epsilon=1000.0)
    answer = device.ask(model.request(1, release=release, total_bytes=payload.nbytes), payload)
    assert isinstance(answer, Answered), answer
    np.testing.assert_allclose(np.frombuffer(answer.payload, np.float32), model.whole(frame)[0], atol=0.2)
