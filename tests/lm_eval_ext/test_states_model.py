"""States of single tokens as recorded, against those that `generate` itself hands out step by step."""

import pytest
import torch

GREEDY = {"until": ["<eos>"], "max_gen_toks": 6, "do_sample": False}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_are_those_of_generates_own_steps(family, make_lm, instance, words_of, reopened):
    texts = [words_of(3 + i, i) for i in range(3)]
    lm = make_lm(family, signals="states")
    lm.generate_until([instance("generate_until", (t, dict(GREEDY)), i) for i, t in enumerate(texts)], True)
    for record in reopened(lm).records(["hidden_prompt", "hidden_last", "hidden_second_last", "tokens"]):
        ids = torch.tensor([lm.tok_encode(texts[record.key.doc_id])])
        tokens = record.signals["tokens"].long()
        n = len(tokens)
        options = {"output_hidden_states": True, "return_dict_in_generate": True, "pad_token_id": 3}
        made = lm.model.generate(ids, max_new_tokens=6, do_sample=False, **options)
        assert made.sequences[0, ids.shape[1] :][:n].tolist() == tokens.tolist()
        assert n > 2
        with torch.no_grad():
            read = lm.model(torch.cat([ids, tokens[None]], 1), output_hidden_states=True).hidden_states
        for layer in range(3):  # the last of four comes behind the final norm
            expected = {
                "hidden_prompt": made.hidden_states[0][layer][0, -1],
                "hidden_second_last": made.hidden_states[n - 1][layer][0, -1],
                "hidden_last": read[layer][0, -1],
            }
            for name, state in expected.items():
                torch.testing.assert_close(record.signals[name][layer].float(), state, rtol=2e-3, atol=1e-3, msg=name)
