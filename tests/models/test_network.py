"""The network that the recipe writes, with random weights in the published shapes."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter as LiteRT

from models.efficientnet_lite0 import network
from split_model.interpreter import open_interpreter

# (expansion, kernel, output channels, blocks) of each stage: Tan and Le 2019, table 1, B0.
STAGES = (
    (1, 3, 16, 1),
    (6, 3, 24, 2),
    (6, 5, 40, 2),
    (6, 3, 80, 3),
    (6, 5, 112, 3),
    (6, 5, 192, 4),
    (6, 3, 320, 1),
)


def random_weights(rng):
    state = {}

    def layer(conv, norm, shape):
        fan = shape[1] * shape[2] * shape[3]
        state[f"{conv}.weight"] = rng.normal(0, np.sqrt(2 / fan), shape).astype(np.float32)
        state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        state[f"{norm}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        state[f"{norm}.running_mean"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    source, number = 32, 0
    for expansion, kernel, channels, blocks in STAGES:
        for _ in range(blocks):
            name, wide = f"_blocks.{number}.", source * expansion
            if expansion > 1:
                layer(f"{name}_expand_conv", f"{name}_bn0", (wide, source, 1, 1))
            layer(f"{name}_depthwise_conv", f"{name}_bn1", (wide, 1, kernel, kernel))
            layer(f"{name}_project_conv", f"{name}_bn2", (channels, wide, 1, 1))
            source, number = channels, number + 1
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    state["_fc.weight"] = rng.normal(0, 0.03, (1000, 1280)).astype(np.float32)
    state["_fc.bias"] = rng.normal(0, 0.1, 1000).astype(np.float32)
    return state


@pytest.fixture(scope="module")
def weights():
    return random_weights(np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(weights):
    return network.build(weights)


def test_it_takes_a_picture_and_gives_a_thousand_logits(model):
    whole = open_interpreter(model)
    assert [(spec.name, spec.shape, spec.dtype) for spec in whole.inputs] == [
        ("image", (1, 224, 224, 3), "float32")
    ]
    assert [(spec.name, spec.shape, spec.dtype) for spec in whole.outputs] == [("logits", (1, 1000), "float32")]
    image = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    assert np.ptp(whole.run([image])[0]) > 0.1


def test_the_same_weights_give_the_same_bytes(model, weights):
    assert network.build(weights) == model


def test_it_has_sixty_ops_and_a_signature(model):
    whole = LiteRT(model_content=model)
    assert whole.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    kinds = [op["op_name"] for op in whole._get_ops_details() if op["op_name"] != "DELEGATE"]
    assert len(kinds) == 60
    assert kinds.count("ADD") == 9
    names = [tensor["name"] for tensor in whole.get_tensor_details()]
    assert len(set(names)) >= 60 + 2 * 50  # outputs, kernels and biases each have a name of their own


def test_weights_are_aligned_for_boards_that_read_them_in_place(model, weights):
    offset = model.index(np.ascontiguousarray(weights["_fc.weight"]).tobytes())
    assert offset % 16 == 0


def test_batch_norms_are_folded_in_with_the_epsilon_they_were_trained_with(model, weights):
    """Twice the gain over twice the deviation is the same layer, if the deviation is sqrt(variance + 1e-3)."""
    changed = dict(weights)
    changed["_bn1.weight"] = weights["_bn1.weight"] * 2
    changed["_bn1.running_var"] = (weights["_bn1.running_var"] + 1e-3) * 4 - 1e-3
    image = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    before, after = (open_interpreter(one).run([image])[0] for one in (model, network.build(changed)))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    changed["_bn1.running_mean"] = weights["_bn1.running_mean"] + 1
    assert np.abs(open_interpreter(network.build(changed)).run([image])[0] - before).max() > 1e-2
