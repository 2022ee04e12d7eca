import math

import pytest
import torch

from metrics.plan import derive, make_plan

ORDER = make_plan((), "log_normalizer+top_logprobs").compute


def test_log_normalizer():
    logits = torch.tensor([[1.0, 2.0, 3.0], [-1000.0, -1000.0, -math.inf], [500.0, 0.0, 0.0]])
    made = derive(ORDER, {"logits": logits})
    expected = [math.log(math.e + math.e**2 + math.e**3), -1000 + math.log(2), 500.0]
    torch.testing.assert_close(made["log_normalizer"], torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_turns_log_probabilities_back_into_logits(dtype):
    logits = (torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    made = derive(ORDER, {"logits": logits})
    largest = logits.float().topk(20).values
    torch.testing.assert_close(made["top_logprobs"] + made["log_normalizer"][:, None], largest, rtol=1e-5, atol=1e-5)
