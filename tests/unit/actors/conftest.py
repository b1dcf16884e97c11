"""What the tests of the actors share: one thread, one tiny corpus and one pair trained on it."""

from __future__ import annotations

import pytest
import torch

from actors.corpus.corpus import train_tokenizer
from actors.layers.pair import Pair
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import Exchange, run_spec, write_facts

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def facts_corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusSpec:
    """A corpus of two relations over twelve countries."""
    return write_facts(tmp_path_factory.mktemp("facts"))


@pytest.fixture(scope="session")
def spec(facts_corpus: CorpusSpec) -> RunSpec:
    """The run that `trained` trains; every loss takes part."""
    return run_spec(facts_corpus)


@pytest.fixture(scope="session")
def tokenizer(spec: RunSpec) -> Tokenizer:
    """The tokenizer of `spec`'s corpus."""
    return train_tokenizer(spec)


@pytest.fixture(scope="session")
def trained(spec: RunSpec, tokenizer: Tokenizer) -> Exchange:
    """Both groups after three intervals; tests read it and leave it as it is."""
    return Exchange(spec, tokenizer.to_json()).run(3, measure=True)


@pytest.fixture
def pair(trained: Exchange) -> Pair:
    """The trained layers as they were last published: `data` of one, `memory` of the other."""
    return Pair(trained.data.layer.eval(), trained.memory.layer)
