"""Training of dictionaries, against data with known features, naive loops, and hooks of TransformerLens."""

import json
from itertools import count

import pytest
import torch

import circuits
from circuits import InputError
from circuits.dictionaries.insert import with_dictionaries
from circuits.dictionaries.site import parse_site
from circuits.dictionaries.train_activations import Recorder, filled_buffer
from circuits.dictionaries.train_coder import AUXILIARY, Coder
from circuits.dictionaries.train_quality import measured_quality
from circuits.dictionaries.train_spec import TrainingSpec, parse_count
from circuits.dictionaries.train_text import EVERY, FileText, first_token, text_source
from circuits.engine.hooks import inference_state
from tests.dictionaries.naive import READ, WRITE, random_dictionary
from tests.small_tokenizers import tokenizer
from tests.tiny_models import random_hf_model, tiny

SMALL = {
    "features": 30, "k": 3, "tokens": 900, "context": 9, "batch_size": 4, "buffer": 300, "step": 64, "held_out": 5, "seed": 3,
}  # fmt: skip
SITES = {
    "gpt2": ["resid_post.2", "transcoder.1", "hook_z.0", "resid_mid.1"], "llama": ["transcoder.2", "attn_out.1"],
    "gemma2": ["mlp_out.1", "transcoder.0"], "neox": ["resid_pre.1", "mlp_out.0"], "native-attention-only": ["attn_out.2", "hook_z.1"],
}  # fmt: skip


def sparse_data(n_features=40, d=20, tokens=6000, per_token=3, seed=7):
    """Sums of `per_token` of the known directions, with amounts between 1 and 2."""
    draw = torch.Generator().manual_seed(seed)
    true = torch.randn(n_features, d, generator=draw)
    true = true / true.norm(dim=1, keepdim=True)
    amounts = torch.zeros(tokens, n_features)
    chosen = torch.rand(tokens, n_features, generator=draw).topk(per_token, 1).indices
    amounts.scatter_(1, chosen, 1 + torch.rand(tokens, per_token, generator=draw))
    return true, amounts @ true


def trained(site, x, y, features, k, steps=700, rate=5e-3, seed=0, skip=False, dead_after=4000):
    coder = Coder.start(parse_site(site), features, k, skip, x, y, seed)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = torch.randint(len(x), (256,), generator=draw)
        coder.step(x[batch], y[batch], rate * min(1.0, 4 * (steps - step) / steps), dead_after)
    return coder


def mean_max_cosine(true, rows):
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-9)
    return float((true @ rows.T).max(1).values.mean())


def test_an_autoencoder_recovers_the_features_of_sparse_data():
    true, x = sparse_data()
    start = Coder.start(parse_site("mlp_out.0"), 60, 3, False, x, x, 0)
    assert mean_max_cosine(true, start.finished().W_dec) < 0.75
    dictionary = trained("mlp_out.0", x, x, 60, 3).finished()
    assert mean_max_cosine(true, dictionary.W_dec) > 0.95
    error = (x - dictionary.decode(dictionary.encode(x))).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.1


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_recovers_what_the_features_of_its_input_write(skip):
    true, x = sparse_data()
    draw = torch.Generator().manual_seed(5)
    written = torch.randn(40, 20, generator=draw)
    written = written / written.norm(dim=1, keepdim=True)
    y = (x @ torch.linalg.pinv(true)).clamp(
        min=0
    ) @ written  # a nonlinear function of x, with a direction for each feature
    if skip:
        y = y + 3 * x @ torch.randn(20, 20, generator=draw) / 20**0.5
    dictionary = trained("transcoder.0", x, y, 80, 6, skip=skip).finished()
    error = (y - dictionary.decode(dictionary.encode(x), x)).square().sum() / (y - y.mean(0)).square().sum()
    without = trained("transcoder.0", x, y, 80, 6).finished() if skip else None
    assert error < 0.15
    if without is not None:
        assert error < 0.7 * (y - without.decode(without.encode(x), x)).square().sum() / (y - y.mean(0)).square().sum()


def naive_loss(coder, x, y, dead):
    """The loss and the auxiliary loss, one token and one feature at a time."""
    w, main, auxiliary = coder.weights, 0.0, 0.0
    for token, target in zip(x, y, strict=True):
        inside = token if coder.site.is_transcoder else token - w["b_dec"]
        before = [(inside * w["W_enc"][:, i]).sum() + w["b_enc"][i] for i in range(len(w["b_enc"]))]
        order = sorted(range(len(before)), key=lambda i: -float(before[i].detach()))
        guess = w["b_dec"] + sum(before[i].clamp(min=0) * w["W_dec"][i] for i in order[: coder.k])
        if "skip" in w:
            guess = guess + w["skip"] @ token
        error = target - guess
        main = main + (error**2).sum()
        strongest = [i for i in order if dead[i]][: len(y[0]) // 2]
        rest = error.detach() - sum(before[i].clamp(min=0) * w["W_dec"][i] for i in strongest)
        auxiliary = auxiliary + (rest**2).sum()
    scale = min(int(dead.sum()) / (len(y[0]) // 2), 1.0)
    return main / y.numel(), scale * auxiliary / y.numel()


@pytest.mark.parametrize(("site", "skip"), [("mlp_out.0", False), ("transcoder.0", False), ("transcoder.0", True)])
@pytest.mark.parametrize("n_dead", [2, 9])
def test_loss_and_gradients_are_those_of_a_naive_loop(site, skip, n_dead):
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(7, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    coder = Coder.start(parse_site(site), 14, 3, skip, x, y if "trans" in site else x, 0)
    with torch.no_grad():
        for weight in coder.weights.values():
            weight += torch.randn(weight.shape, generator=draw, dtype=torch.float64) / 3
    dead = torch.arange(14) < n_dead
    main, auxiliary, active = coder.loss(x, y, dead)
    gradients = torch.autograd.grad(main + AUXILIARY * auxiliary, list(coder.weights.values()))
    slow_main, slow_auxiliary = naive_loss(coder, x, y, dead)
    slow = torch.autograd.grad(slow_main + AUXILIARY * slow_auxiliary, list(coder.weights.values()))
    torch.testing.assert_close(torch.stack([main, auxiliary]), torch.stack([slow_main, slow_auxiliary]))
    assert auxiliary > 0
    for name, fast, other in zip(coder.weights, gradients, slow, strict=True):
        torch.testing.assert_close(fast, other, msg=name)
    assert active.any()


def test_dead_features_come_back_with_the_auxiliary_loss():
    _, x = sparse_data()
    alive = {}
    for dead_after in (1000, 10**9):
        coder = Coder.start(parse_site("mlp_out.0"), 60, 3, False, x, x, 0)
        with torch.no_grad():
            coder.weights["b_enc"][:30] -= 3.0  # half of the features never reach the k largest
        draw = torch.Generator().manual_seed(0)
        for _ in range(300):
            batch = torch.randint(len(x), (256,), generator=draw)
            coder.step(x[batch], x[batch], 5e-3, dead_after)
        alive[dead_after] = int((coder.finished().encode(x) != 0).any(0)[:30].sum())
    assert alive[1000] > alive[10**9] + 10


def test_scales_are_folded_into_the_weights():
    draw = torch.Generator().manual_seed(1)
    x, y = 50 * torch.randn(200, 6, generator=draw) + 9, torch.randn(200, 6, generator=draw) / 30
    for site, target, skip in (("mlp_out.0", x, False), ("transcoder.0", y, True)):
        coder = trained(site, x, target, 12, 3, steps=30, skip=skip)
        dictionary = coder.finished()
        main, _, _ = coder.loss(x * coder.scale_in, target * coder.scale_out, torch.zeros(12, dtype=torch.bool))
        error = (target - dictionary.decode(dictionary.encode(x), x)).square().sum(1).mean()
        torch.testing.assert_close(error * coder.scale_out**2 / 6, main, rtol=1e-4, atol=1e-6)
        if skip is False:
            torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(12))


def state_of(out):
    """All files but the times of a training."""
    record = json.loads((out / "training.json").read_text())
    for name in ("seconds", "seconds_training", "sha256"):
        record.pop(name, None)
    return record, {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "training.json"
    }


@pytest.mark.parametrize("options", [{}, {"passes": 2, "skip": True}])
def test_a_resumed_training_is_an_uninterrupted_one_bit_for_bit(tmp_path, options):
    model, sites = tiny("llama", torch.float32), ["transcoder.1", "resid_pre.1"]
    given = {**SMALL, **options, "checkpoint_seconds": 0.0}
    circuits.train_dictionary(model, sites, tmp_path / "whole", **given)
    stops = iter((4, 9, 11))
    left = [next(stops)]

    def stop(done, total, note=""):
        if left and done == left[0] and "unexplained" in note:
            left[:] = [stop_at] if (stop_at := next(stops, None)) else []
            raise KeyboardInterrupt

    for attempt in count():
        try:
            circuits.train_dictionary(model, sites, tmp_path / "cut", resume=attempt > 0, progress=stop, **given)
            break
        except KeyboardInterrupt:
            assert (tmp_path / "cut" / "training.json").exists()
    assert attempt == 3
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")
    again = circuits.train_dictionary(model, sites, tmp_path / "cut", resume=True, **given)
    assert again.dictionaries[0].digest == circuits.load_dictionary(tmp_path / "whole" / "transcoder.1").digest


@pytest.mark.parametrize("name", SITES)
def test_the_buffer_has_what_the_sites_read_and_write(name):
    model = tiny(name)
    spec = TrainingSpec.for_sites(SITES[name], **SMALL)
    with inference_state(model.bridge):
        recorders = [Recorder.at(model, site) for site in spec.parsed_sites]
        text = text_source(model, spec)
        pairs = filled_buffer(model, text, recorders, spec, 2)
        batches = range(2 * spec.n_batches, 3 * spec.n_batches)
        tokens = torch.cat([text.batch(number, ()) for number in batches])
        assert not torch.equal(tokens, torch.cat([text.batch(number + spec.n_batches, ()) for number in batches]))
        for site, (x, y) in zip(spec.parsed_sites, pairs, strict=True):
            mine, wanted = torch.cat((x, y), 1), torch.cat(naive_activations(model, site, tokens), 1)
            weights = torch.randn(mine.shape[1], generator=torch.Generator().manual_seed(0), dtype=mine.dtype)
            order, other = (mine @ weights).argsort(), (wanted @ weights).argsort()
            assert mine.shape == wanted.shape
            assert not torch.equal(order, torch.arange(len(order)))
            torch.testing.assert_close(mine[order], wanted[other], atol=1e-5, rtol=1e-4)


def points_of(model, site):
    """TransformerLens' names of what a site reads and writes."""
    last = site.layer + 1 == len(model.architecture.blocks)
    after = "ln_final.hook_in" if last else f"blocks.{site.layer + 1}.hook_in"
    write = after if site.writes == "resid_post" else f"blocks.{site.layer}.{WRITE.get(site.writes, 'hook_attn_out')}"
    return f"blocks.{site.layer}.{READ[site.reads]}" if site.is_transcoder else write, write


def naive_activations(model, site, tokens):
    found = ([], [])
    for prompt in tokens:
        seen = {}
        names = {*points_of(model, site), f"blocks.{site.layer}.hook_in"}
        keep = [
            (name, lambda x, hook, name=name, seen=seen: seen.update({name: x[0].flatten(1).clone()})) for name in names
        ]
        model.bridge.run_with_hooks(prompt[None], fwd_hooks=keep)
        for into, name in zip(found, points_of(model, site), strict=True):
            value = seen[name] + seen[f"blocks.{site.layer}.hook_in"] if site.writes == "resid_mid" else seen[name]
            used = torch.ones(len(prompt), dtype=torch.bool) if first_token(model) is None else prompt != 1
            used[0] = False
            into.append(value[used])
    return tuple(torch.cat(part) for part in found)


def naive_cross_entropy(model, tokens, hooks):
    """Mean loss per token, one prompt and one position at a time."""
    losses = []
    for prompt in tokens:
        logits = model.bridge.run_with_hooks(prompt[None], fwd_hooks=hooks(prompt), return_type="logits")[0]
        losses += [-logits[i].float().log_softmax(0)[prompt[i + 1]] for i in range(len(prompt) - 1)]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize(("name", "site", "skip"), [
    ("gpt2", "mlp_out.1", False), ("gpt2", "resid_post.2", False), ("llama", "transcoder.1", True), ("gemma2", "transcoder.0", False),
    ("llama", "hook_z.1", False), ("neox", "resid_pre.1", False),
])  # fmt: skip
@torch.no_grad()
def test_quality_is_that_of_a_naive_computation_by_hooks(name, site, skip):
    model = tiny(name)
    dictionary = random_dictionary(model, site, n=12, activation="topk", k=3, skip=skip)
    tokens = torch.randint(2, 40, (5, 7), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokens[0, 3] = 1  # BOS tokens stay as they are
    quality = measured_quality(model, dictionary, tokens, batch_size=2, dead=4)
    x, y = naive_activations(model, dictionary.site, tokens)
    features = dictionary.encode(x)
    error = y - dictionary.decode(features, x)
    assert quality.explained_variance == pytest.approx(1 - float((error**2).sum() / ((y - y.mean(0)) ** 2).sum()))
    assert quality.l0 == pytest.approx(float((features != 0).sum() / len(x)))
    assert (quality.tokens, quality.dead, quality.never_active) == (len(x), 4, int((features == 0).all(0).sum()))
    read, write = points_of(model, dictionary.site)

    def replaced(change):
        def hooks(prompt):
            seen = {}

            def at_write(value, hook):
                new = change(seen.get("x", value[0].flatten(1)), value[0].flatten(1))
                kept = (prompt == 1)[:, None]
                return torch.where(kept, value[0].flatten(1), new)[None].reshape(value.shape)

            at_read = (read, lambda value, hook: seen.update(x=value[0]))
            return [*([at_read] if read != write else []), (write, at_write)]

        return naive_cross_entropy(model, tokens, hooks)

    own, close = naive_cross_entropy(model, tokens, lambda prompt: []), {"rel": 1e-5}
    wanted = [replaced(change) for change in (
        lambda x, y: dictionary.decode(dictionary.encode(x), x), lambda _, y: 0 * y, lambda _, old: y.mean(0).expand_as(old),
    )]  # fmt: skip
    assert [quality.loss, quality.loss_dictionary, quality.loss_zero, quality.loss_mean] == pytest.approx(
        [own, *wanted], **close
    )
    if quality.loss_zero > own:
        assert quality.recovered_zero == pytest.approx((wanted[1] - wanted[0]) / (wanted[1] - own), rel=1e-3)


def test_loss_recovered_is_undefined_where_the_ablation_does_no_harm():
    quality = measured_quality(
        tiny("gpt2"),
        random_dictionary(tiny("gpt2"), "mlp_out.0", activation="topk", k=2),
        torch.ones(2, 3).long() * 5,
        2,
    )
    numbers = {**vars(quality), "loss_zero": quality.loss - 1}
    assert type(quality)(**numbers).recovered_zero is None


@pytest.mark.parametrize("name", ["llama", "native-attention-only"])
def test_sampled_text_has_the_frequencies_of_the_model(name):
    """The second token, against the model's probabilities after the first one: with a cache and without."""
    model = tiny(name)
    spec = TrainingSpec.for_sites("attn_out.0", **{**SMALL, "context": 2, "batch_size": 2000})
    with inference_state(model.bridge), torch.no_grad():
        tokens = text_source(model, spec).batch(0, ())
        chances = model.bridge(tokens[:, :1], return_type="logits")[:, -1].double().softmax(1)
    counts = torch.bincount(tokens[:, 1], minlength=model.d_vocab)
    deviation = (counts - chances.sum(0)).abs() / (chances * (1 - chances)).sum(0).sqrt().clamp(min=1.0)
    assert deviation.max() < 4.5
    assert (counts > 20).sum() > 1


@pytest.fixture(scope="module")
def reader():
    model, words = random_hf_model("llama"), tokenizer("byte-level")
    torch.manual_seed(0)
    model.resize_token_embeddings(len(words), mean_resizing=False)
    return circuits.load_model(model, tokenizer=words)


TEXT = "John went to the store, and Mary gave a drink to John.\n"


def test_a_file_is_cut_into_contexts_with_every_20th_held_out(reader, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 40)
    spec = TrainingSpec.for_sites("attn_out.0", **{**SMALL, "text": str(path), "held_out": 2})
    ids = reader.tokenizer(TEXT * 40, add_special_tokens=False)["input_ids"]
    rows = [[1, *ids[i : i + 8]] for i in range(0, len(ids) - 7, 8)]
    assert len(rows) > 2 * EVERY
    kept = [row for number, row in enumerate(rows) if number % EVERY != EVERY - 1]
    text = FileText(reader, spec)
    assert text.held_out().tolist() == [rows[19], rows[39]]
    got = torch.cat([text.batch(number, ()) for number in range(len(kept) // 4 + 2)]).tolist()
    assert got == (kept + kept)[: len(got)]
    assert text.batch(1, ()).tolist() == got[4:8]


def test_documents_of_a_jsonl_file_are_separated(reader, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"body": TEXT}) + "\n\n" for _ in range(40)))
    spec = TrainingSpec.for_sites("attn_out.0", **{**SMALL, "text": str(path), "field": "body", "context": 9})
    ids = reader.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    stream = [*ids, *[1, *ids] * 39]
    text = FileText(reader, spec)
    assert text.batch(0, ())[:, 1:].flatten().tolist() == stream[:32]
    with pytest.raises(InputError, match=r"line 1: expected an object with a text in 'text'"):
        FileText(reader, TrainingSpec.for_sites("attn_out.0", **{**SMALL, "text": str(path)}))
    path.write_text(json.dumps({"body": TEXT}))
    with pytest.raises(InputError, match="too few for 20 contexts of 9"):
        FileText(reader, spec)


READ_BACK = ("transcoder.1", "mlp_out.0", "hook_z.2")


@pytest.fixture(scope="module")
def of_file(reader, tmp_path_factory):
    """A training on a text file, and its folder."""
    folder = tmp_path_factory.mktemp("file")
    (folder / "text.txt").write_text(TEXT * 40)
    options = {**SMALL, "text": folder / "text.txt", "skip": True}
    return circuits.train_dictionary(reader, list(READ_BACK), folder / "out", **options), folder / "out"


def test_a_training_on_a_file_is_recorded_and_leaves_no_checkpoint(of_file):
    done, out = of_file
    assert [row["site"] for row in done.rows()] == list(READ_BACK)
    assert "explained variance" in repr(done)
    assert done.record["tokens"] == 14 * 64
    assert not (out / "checkpoint.safetensors").exists()
    assert done.record["loss_all_together"] > 0


@pytest.mark.parametrize("site", READ_BACK)
def test_trained_dictionaries_are_read_back(of_file, reader, site):
    done, out = of_file
    dictionary, read = done.dictionaries[READ_BACK.index(site)], circuits.load_dictionary(out / site)
    assert read.site == dictionary.site == parse_site(site)
    assert (read.model, read.n_features, read.activation.k) == (reader.name, 30, 3)
    x = torch.randn(5, read.d_in, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(read.decode(read.encode(x), x), dictionary.decode(dictionary.encode(x), x))
    assert torch.equal(read.W_enc, dictionary.W_enc)
    assert (read.skip is None) == (site != "transcoder.1")


def test_the_files_are_those_of_saelens(of_file, reader):
    # SAELens 6.54 and sparsify 1.3 read these files with equal features and reconstructions; without the version, SAELens drops the metadata.
    config = json.loads((of_file[1] / "hook_z.2" / "cfg.json").read_text())
    metadata = {"sae_lens_version": "6.0.0", "model_name": reader.name, "hook_name": "blocks.2.attn.hook_z"}
    assert config["metadata"] == metadata
    names = ("architecture", "reshape_activations", "apply_b_dec_to_input")
    assert [config[name] for name in names] == ["topk", "hook_z", True]


@pytest.mark.parametrize(("change", "message"), [
    ({"sites": "nowhere.3"}, "there is no site 'nowhere.3'"), ({"sites": []}, "no site is given"),
    ({"sites": ["mlp_out.1", "transcoder.1"]}, "at one place"), ({"features": 2}, "only 2 features"), ({"tokens": "many"}, "number of tokens"),
    ({"tokens": 10}, "less than one gradient step"), ({"buffer": 10}, "smaller than a gradient step"), ({"k": 0}, "k must be a whole number"),
    ({"text": "there.csv"}, "neither 'sampled' nor a file"), ({"text": "there.txt"}, "no text file there.txt"),
    ({"learning_rate": 2.0}, "learning rate must be"), ({"skip": True, "sites": "mlp_out.1"}, "only transcoders have a skip"),
    ({"sites": "resid_mid.1->mlp_out.1"}, "use transcoder.1"), ({"nope": 1}, "unknown option nope"),
    ({"sites": "mlp_out.9"}, "has 3 layers"), ({"context": 100}, "longer than those"), ({"dead_after": 0}, "dead_after must be"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(tmp_path, change, message):
    given = {"sites": "transcoder.1", **SMALL, **change}
    with pytest.raises(InputError, match=message) as caught:
        circuits.train_dictionary(tiny("gpt2"), given.pop("sites"), tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_or_checkpoint_of_another_training_is_refused(tmp_path):
    model, given = tiny("gpt2"), {**SMALL, "checkpoint_seconds": 0.0}
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="already exists"):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "taken", **given)
    with pytest.raises(InputError, match="no training to resume"):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "taken", resume=True, **given)

    def stop(done, total, note=""):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "out", progress=stop, **given)
    with pytest.raises(InputError, match="--resume to continue it"):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "out", **given)
    with pytest.raises(InputError, match="has seed 3 instead of 4"):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "out", resume=True, **{**given, "seed": 4})
    with pytest.raises(InputError, match="with another model"):
        circuits.train_dictionary(tiny("gpt2", seed=1), "mlp_out.0", tmp_path / "out", resume=True, **given)
    checkpoint = tmp_path / "out" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a file of a checkpoint"):
        circuits.train_dictionary(model, "mlp_out.0", tmp_path / "out", resume=True, **given)


def test_a_dictionary_of_another_model_is_refused(tmp_path):
    done = circuits.train_dictionary(tiny("gpt2"), "transcoder.0", tmp_path / "out", **SMALL)
    (tmp_path / "out" / "transcoder.0" / "cfg.json").write_text(
        (tmp_path / "out" / "transcoder.0" / "cfg.json")
        .read_text()
        .replace(json.dumps(done.record["model"]), '"org/other"')
    )
    other = circuits.load_dictionary(tmp_path / "out" / "transcoder.0")
    with pytest.raises(InputError, match="was trained on org/other"):
        with_dictionaries(tiny("gpt2"), [other])
    assert with_dictionaries(tiny("gpt2"), list(done.dictionaries)).places


def test_numbers_of_tokens():
    assert [parse_count(text) for text in ("500k", "1.5M", "1_000", 7)] == [500_000, 1_500_000, 1000, 7]
