"""A small language model on the digits, trained by transformers' Trainer and recorded at every step.

Run it with ``python -m regime_proto.examples.live_trainer OUT.h5``, then ``regime analyze OUT.h5``.

A line of 16 tokens holds every second pixel of every second row, in 17 shades; the model learns to predict the next
one. It has the architecture of OPT, whose feed-forward layers have ReLUs, and random initial weights.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import OPTConfig, OPTForCausalLM, PrinterCallback, Trainer, TrainingArguments

from regime_proto.adapters.from_huggingface.trainer_callback import RegimeCallback
from regime_proto.examples import digits

SHADES = 17
EPOCHS = 3


def make() -> OPTForCausalLM:
    """Return the model, with random weights."""
    config = OPTConfig(
        vocab_size=SHADES, max_position_embeddings=16, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64,
        num_hidden_layers=2, num_attention_heads=2, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return OPTForCausalLM(config)


def train(out: Path) -> float:
    """Train, and write the trajectory `out`; return the validation loss."""
    images, validation, _, _ = (torch.from_numpy(part) for part in digits.load())
    lines, validation = (torch.round(16 * part[:, ::2, ::2]).long().flatten(1) for part in (images, validation))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=digits.BATCH, learning_rate=3e-3,
            per_device_eval_batch_size=len(validation),
            eval_strategy="epoch", save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        recording = RegimeCallback({"input_ids": validation[: digits.PROBE_SAMPLES].numpy()}, out, overwrite=True)
        trainer = Trainer(
            make(),
            settings,
            train_dataset=_samples(lines),
            eval_dataset=_samples(validation),
            callbacks=[recording],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return float(trainer.evaluate()["eval_loss"])


def _samples(lines: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": line, "labels": line} for line in lines]


if __name__ == "__main__":
    print(f"validation loss {train(Path(sys.argv[1])):.3f}")
