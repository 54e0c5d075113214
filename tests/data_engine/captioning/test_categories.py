import pytest
from pydantic import ValidationError

from data_engine.caption_config import CaptionConfig, CategoryConfig, EndpointConfig
from data_engine.captioning.categories import (
    ChatCategorizer,
    EmbeddedCategorizer,
    make_categorizer,
)
from data_engine.captioning.chat import open_chat_model
from data_engine.captioning.endpoint import EndpointChat
from data_engine.schema import Category
from tests.data_engine.captioning.chat_server import MODEL, Asked, ChatServer, Reply

CAPTIONS = {
    "A woman with long hair smiles and talks to a friend.": "people",
    "Two lions lie in the dry grass and look around.": "animals",
    "Snow lies on the peaks of a mountain range above a lake.": "nature",
    "Skyscrapers stand along an avenue at night.": "city",
    "A red car overtakes a truck on the motorway.": "vehicles",
    "A tennis player hits the ball over the net.": "sports",
    "A pizza with cheese and tomatoes is cut on a plate.": "food",
    "A bedroom with a bed, a lamp and a wooden wardrobe.": "indoor",
    "A cartoon character jumps about in a 3D animated film.": "animation",
    "White credits roll over a black background.": "text/graphics",
    "An engineer solders a circuit board beside a computer.": "technology",
    "The theory of justice asks what is owed by whom.": "other",
}


@pytest.fixture(scope="module")
def categorizer() -> EmbeddedCategorizer:
    config = CategoryConfig()
    return EmbeddedCategorizer(config.names, config.min_cosine)


@pytest.mark.slow
def test_plain_captions_fall_into_their_categories(categorizer: EmbeddedCategorizer) -> None:
    found = categorizer.categorize(list(CAPTIONS))
    assert [category.name for category in found if category] == list(CAPTIONS.values())
    assert {category.backend for category in found if category} == {categorizer.backend}


@pytest.mark.slow
def test_words_on_the_camera_do_not_decide(categorizer: EmbeddedCategorizer) -> None:
    (category,) = categorizer.categorize(
        ["An espresso in orange and brown tones, evenly lit. Little movement, static camera."]
    )
    assert category is not None
    assert category.name == "food"


@pytest.mark.slow
def test_names_of_ones_own_work_and_without_other_nothing_may_fit() -> None:
    categorizer = EmbeddedCategorizer(("underwater scenes", "space flight"), 0.28)
    found = categorizer.categorize(
        ["A diver swims above a coral reef.", "A rocket lifts off.", "A pizza with cheese."]
    )
    assert [category and category.name for category in found] == [
        "underwater scenes",
        "space flight",
        None,
    ]


def test_a_language_model_names_a_category_or_none(server: ChatServer) -> None:
    said = {"lions": "**Animals**.", "pizza": " food\n", "justice": "philosophy", "car": ""}

    def reply(asked: Asked) -> Reply:
        assert "people, animals, food" in asked.prompt
        return Reply(next(text for word, text in said.items() if word in asked.prompt))

    server.reply = reply
    model = EndpointChat(EndpointConfig(url=server.url, model=MODEL, max_retries=0))
    categorizer = ChatCategorizer(("people", "animals", "food"), model)
    backend = f"endpoint:{MODEL}"
    assert categorizer.categorize([f"About {word}." for word in said]) == [
        Category(name="animals", backend=backend),
        Category(name="food", backend=backend),
        None,
        None,
    ]


def test_the_configuration_chooses(server: ChatServer) -> None:
    none = CaptionConfig(categories=CategoryConfig(names=()))
    assert make_categorizer(none, open_chat_model) is None
    asked = CaptionConfig(
        categories=CategoryConfig(backend="endpoint"),
        endpoint=EndpointConfig(url=server.url, model=MODEL),
    )
    assert isinstance(make_categorizer(asked, open_chat_model), ChatCategorizer)
    with pytest.raises(ValidationError, match=r"set captions\.endpoint\.model"):
        CaptionConfig(categories=CategoryConfig(backend="endpoint"))
    with pytest.raises(ValidationError, match="must differ"):
        CategoryConfig(names=("food", "food"))
    with pytest.raises(ValidationError, match="only 'other'"):
        CategoryConfig(names=("other",))
