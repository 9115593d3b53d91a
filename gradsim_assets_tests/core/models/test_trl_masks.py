"""The loss of conversations is on the tokens that TRL trains on: its own trainer's labels, in its own training templates.

Where a model's template marks no answers, TRL puts one in its place that does. In that, ours are its masks; in the model's own template
they are the answers behind their prompts, which is the same but where TRL counts headers, too, or changes the text.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from trl import chat_template_utils

from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.template_families import FAMILIES, tokenizer_of_families, turns

CONVERSATION = turns(
    *(
        "Is water wet?",
        "Yes: whatever 💧 touches it is.",
        "And ice?\nSay why.",
        "Ice is dry,\n\nas long as it is cold.",
    ),
    *("Thanks", "Any time!"),
)

#: The eight families by what TRL calls their templates; of those that it has none of, ours, which mark answers.
OF_TRL = {"chatml": "qwen2_5", "llama 3": "llama3", "gemma": "gemma", "phi": "phi3", "deepseek": "deepseekv3"}
OF_OURS = ("mistral", "tulu", "zephyr")

#: Templates for chats without images whose text does not depend on the day.
TRAINED = (
    *(
        "cohere",
        "cohere2",
        "deepseek_r1_distill",
        "deepseekv3",
        "gemma",
        "gemma3",
        "glm4moe",
        "lfm2",
        "lfm2_v2",
        "llama3",
    ),
    *("nemotron_3_5_lightning", "nemotron_3_nano", "nemotron_3_super", "nemotron_3_ultra", "phi3", "phi3_5", "qwen2_5"),
    *(
        "qwen2_5_vl",
        "qwen3",
        "qwen3_5_nothink",
        "qwen3_5_think",
        "qwen3_6",
        "qwen3_8",
        "qwen3_instruct_2507",
        "qwen3_vl",
    ),
)

#: Those in whose original TRL counts the header of an answer, or its line end, as well.
WITH_HEADERS = {"deepseek_r1_distill": "<｜Assistant｜>", "deepseekv3": "<｜Assistant｜>", "qwen2_5": "\n"}

#: Those whose training template writes otherwise than the original: thoughts within a conversation, an end behind each answer.
REWRITTEN = {"glm4moe", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8"}


def template_of_trl(name: str, training: bool = False) -> str:
    text: str = getattr(chat_template_utils, f"{name}{'_training' * training}_chat_template")
    return text


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of_families()


def trl_mask(tokenizer: Any, template: str) -> Any:
    return tokenizer.apply_chat_template(
        CONVERSATION, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )


@pytest.mark.parametrize("name", TRAINED)
def test_in_training_templates_of_trl_the_loss_is_on_its_masks(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    expected = trl_mask(tokenizer, template_of_trl(name, training=True))
    assert 0 < sum(expected["assistant_masks"]) < len(expected["assistant_masks"])
    encoded = ChatTokenizer(tokenizer, template_of_trl(name, training=True)).encode(Sample.of("s", CONVERSATION))
    assert encoded.input_ids.tolist() == expected["input_ids"]
    assert (encoded.labels != IGNORED).astype(int).tolist() == expected["assistant_masks"]


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in REWRITTEN])
def test_in_the_original_templates_the_loss_is_on_the_same_answers(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    expected = trl_mask(tokenizer, template_of_trl(name, training=True))
    encoded = ChatTokenizer(tokenizer, template_of_trl(name)).encode(Sample.of("s", CONVERSATION))
    assert encoded.input_ids.tolist() == expected["input_ids"]
    ours, theirs = encoded.labels != IGNORED, np.array(expected["assistant_masks"], dtype=bool)
    assert not np.any(ours & ~theirs)
    more = tokenizer.decode(encoded.input_ids[theirs & ~ours])
    assert more == 3 * WITH_HEADERS.get(name, ""), "what TRL counts besides stands before each of the three answers"


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **sizes))


@pytest.mark.parametrize("family", [*OF_TRL, *OF_OURS])
def test_the_labels_of_trls_own_trainer_are_ours(
    family: str, model: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    own = template_of_trl(OF_TRL[family]) if family in OF_TRL else FAMILIES[family][0]
    tokenizer.chat_template = own
    arguments = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False, max_length=None, report_to=[]
    )
    data = Dataset.from_list([{"messages": CONVERSATION}])
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trained = template_of_trl(OF_TRL[family], training=True) if family in OF_TRL else own
    encoded = ChatTokenizer(tokenizer, trained).encode(Sample.of("s", CONVERSATION))
    assert batch["input_ids"][0].tolist() == encoded.input_ids.tolist()
    assert batch["labels"][0].tolist() == encoded.labels.tolist()
