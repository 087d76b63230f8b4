"""Tiny masked LMs with random weights, and tokenizers with and without a space in their words."""

from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "A great film, and a great cast. It was great.",
    "A terrible film, and a terrible cast. It was terrible.",
    "Is the review good or bad? The answer is good. The answer is bad.",
    "Choose A, B or C. It is A. It is B. It is C.",
]


def make_roberta_tokenizer(*, mask_takes_space: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE: a word brings its space. RoBERTa's own mask swallows the one before it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    mask = AddedToken("<mask>", lstrip=mask_takes_space, special=True)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
    )


def make_bert_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece, lower case: a space is no token and in no word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


_SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {}),
    "bert": ("BertConfig", "BertForMaskedLM", {}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    ),
    "albert": ("AlbertConfig", "AlbertForMaskedLM", {"embedding_size": 16}),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", {"embedding_size": 16}),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {"cls_token_id": 0, "sep_token_id": 2},
    ),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {}),
    "deberta-v2": (  # its output layer is followed by others
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        {"legacy": False, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "mobilebert": (  # takes the weights of its output layer apart
        "MobileBertConfig",
        "MobileBertForMaskedLM",
        {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
}
ARCHITECTURES = tuple(_SPECS)


def make_masked(
    name: str, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **options: Any
) -> Any:
    """Two layers, weights large enough that the model has opinions."""
    config_class, model_class, own = _SPECS[name]
    config = getattr(transformers, config_class)(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 66,
            "initializer_range": 0.3,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **own,
            **options,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_class)(config).eval()
        # Biases and scales are 0 and 1 at birth, where leaving them out would not be seen.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)
