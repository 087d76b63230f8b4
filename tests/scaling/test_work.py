"""The cost model by hand, on a shape whose numbers are small."""

import pytest

from stableprompt.errors import ConfigError
from stableprompt.scaling.machines import (
    MACHINES,
    PROCESS,
    Machine,
    Speed,
    parse_machines,
)
from stableprompt.scaling.roles import Asked, Elsewhere, InProcess, Served
from stableprompt.scaling.shapes import SHAPES, Shape
from stableprompt.scaling.work import (
    COMPUTE,
    LAUNCHES,
    LINKS,
    STATES,
    WEIGHTS,
    Held,
    Work,
    continuing,
    costs,
    gathering,
    judging,
    learning,
    reading,
    scoring,
    seconds,
    writing,
)

SHAPE = Shape("t", 3, 8, 4, 2, 2, 16, 10, tied=False)  # 1728 linear parameters, 80 of the output
HELD = Held(SHAPE, bytes_each=2.0)
LARGE = Held(SHAPES["llama-3-70b"])


def test_reading_by_hand() -> None:
    work = reading(HELD, 5, before=7, asked=2, passes=3)
    # Attention: scores and sums, 2 x 2 x 4 heads of 2, in 3 layers, over 7 places.
    assert work.flops == 5 * (2 * 1728 + 4 * 3 * 8 * 7) + 2 * 2 * 80
    assert work.weight_bytes == 3 * (1728 + 80) * 2
    # 20 x 8 + 8 x 16 elements and 24 keys and values for a token and layer, 12 bytes a logit.
    assert work.other_bytes == 5 * (3 * (160 + 128) + 24) * 2 + 12 * 2 * 10
    assert work.launches == 9
    assert (work.backward_flops, work.drawn) == (0, 0)
    assert work.exchanges == 2 * 3 * 3


def test_without_logits_the_output_layer_is_not_read() -> None:
    assert reading(HELD, 5).weight_bytes == 1728 * 2


def test_weights_in_four_bits_are_unpacked_in_every_pass() -> None:
    packed = Held(SHAPE, bytes_each=2.0, quantised=True)
    # Half a byte read, two written, two read.
    assert reading(packed, 1).weight_bytes == 1728 * 4.5


def test_an_adapter_doubles_the_launches() -> None:
    assert reading(Held(SHAPE, lora=True), 1).launches == 2 * reading(HELD, 1).launches


def test_writing_reads_the_query_once_and_the_weights_for_every_token() -> None:
    work = writing(HELD, rows=4, query=100, length=6)
    assert work.weight_bytes == 1728 * 2 + 6 * (1728 + 80) * 2
    assert work.drawn == 6 * 4 * 10
    assert work.launches == 3 * (1 + 6)
    # The cache is read for every token: of 4 rows with 103 places on average.
    more = writing(HELD, 4, 200, 6) + reading(HELD, 200, before=100) * -1
    less = writing(HELD, 4, 100, 6) + reading(HELD, 100, before=50) * -1
    assert more.other_bytes - less.other_bytes == pytest.approx(6 * 4 * 100 * 24 * 2)


def test_a_backward_pass_to_adapters_costs_what_the_forward_pass_did() -> None:
    one, both = judging(HELD, 4, 100, 6), learning(HELD, 4, 100, 6)
    assert both.flops == both.backward_flops == one.flops
    assert both.weight_bytes == 2 * one.weight_bytes


def test_many_logits_are_made_a_second_time_in_the_backward_pass() -> None:
    held = Held(SHAPES["llama-3-8b"])
    work = learning(held, 24, 100, 40)
    assert 24 * 40 * 128256 > 2**24
    assert work.backward_flops - work.flops == pytest.approx(2 * 24 * 40 * 128256 * 4096)


def test_scoring_reads_weights_for_every_batch() -> None:
    few = scoring(HELD, read=50, pairs=4, context=20, batch_tokens=100)
    many = scoring(HELD, read=50, pairs=40, context=20, batch_tokens=100)
    assert few.weight_bytes == 3 * (1728 + 80) * 2
    assert many.weight_bytes == 10 * (1728 + 80) * 2


def test_work_adds_up() -> None:
    both = reading(HELD, 5, asked=1) + continuing(HELD, 2, 10, 3)
    assert both * 2 == both + both
    assert Work() + both == both


SPEED = Speed(flops=10.0, backward_flops=5.0, bandwidth=4.0, layer_seconds=0.5, draw_seconds=0.25)
LINKED = Machine("m", 1e9, 10, 10, 4, 100.0, 0.0, "")


def test_seconds_by_hand() -> None:
    work = Work(20.0, 10.0, 8.0, 4.0, 6.0, 8.0, 3.0, 600.0)
    assert costs(work, SPEED) == {
        COMPUTE: 2 + 2,
        WEIGHTS: 2,
        STATES: 1 + 2,
        LAUNCHES: 3,
        LINKS: 0,
    }
    assert seconds(work, SPEED) == 12
    found = costs(work, SPEED, 4, LINKED)
    assert found[COMPUTE] == 1
    assert found[WEIGHTS] == 0.5
    assert found[LAUNCHES] == 3  # every device starts every layer
    # Three of 10 us, and 600 bytes that go to three of four and come back, at 60 of 100.
    assert found[LINKS] == pytest.approx(3e-5 + 600 * 1.5 / 60)


def test_beyond_a_node_the_network_limits() -> None:
    work, machine = Work(exchanged_bytes=1e12), MACHINES["h100"]
    near, far = (costs(work, SPEED, n, machine)[LINKS] for n in (8, 16))
    assert near == pytest.approx(1e12 * 14 / 8 / (450e9 * 0.6))
    assert far == pytest.approx(1e12 * 30 / 16 / (50e9 * 0.6))


def test_a_split_model_is_fetched_anew_in_every_pass() -> None:
    # 1728 numbers of 2 bytes in 3 layers, of which three of four parts are fetched, at 60 of 100
    # bytes a second; 10 us for each layer, and for all to agree on the pass.
    layer = 1e-5 + 1728 * 2 / 3 * 0.75 / 60
    once = gathering(reading(HELD, 7), HELD, 4, LINKED)
    assert once == pytest.approx(3 * layer + 1e-5)
    many = gathering(continuing(HELD, 5, 100, 12), HELD, 4, LINKED)
    assert many == pytest.approx(12 * once)  # however many rows
    both = gathering(learning(HELD, 2, 10, 3), HELD, 4, LINKED)
    assert both == pytest.approx(4 * once)  # query and rows, forward and backward


def test_a_program_gets_a_share_of_the_peak_or_what_was_measured() -> None:
    speed = PROCESS.of(MACHINES["h100"])
    assert speed.flops == pytest.approx(989.4e12 * 0.35)
    assert speed.bandwidth == pytest.approx(3350e9 * 0.6)
    assert PROCESS.of(MACHINES["h100"], float32=True).flops == pytest.approx(66.9e12 * 0.35)
    assert PROCESS.of(MACHINES["cpu-thread"]) is MACHINES["cpu-thread"].measured


@pytest.mark.parametrize(("text", "count", "name"), [("h100", 1, "h100"), (" 16xH200", 16, "h200")])
def test_machines_by_name(text: str, count: int, name: str) -> None:
    assert parse_machines(text) == (count, MACHINES[name])


@pytest.mark.parametrize("text", ["", "4x", "0xh100", "00xh100", "h100x4", "tpu", "-1xh100"])
def test_what_is_no_machine_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        parse_machines(text)


# --- targets ---

H200 = MACHINES["h200"]


def total(target: InProcess | Served | Elsewhere, asked: Asked) -> float:
    return sum(target.answering(asked).values())


def test_twice_the_servers_halve_the_time() -> None:
    asked = Asked(640, 640 * 100, 100, 0.0)
    one, two = (total(Served(LARGE, H200, 4, n, 64), asked) for n in (1, 2))
    assert two == pytest.approx(one / 2)


def test_more_calls_at_once_read_the_weights_less_often() -> None:
    asked = Asked(640, 640 * 30, 100, 0.0)
    few, many = (Served(LARGE, H200, 4, 1, n).answering(asked) for n in (1, 64))
    assert few[WEIGHTS] == pytest.approx(64 * many[WEIGHTS])
    assert few[COMPUTE] == many[COMPUTE]


def test_a_server_reads_no_more_in_a_pass_than_it_has_room_for() -> None:
    asked = Asked(640, 640 * 1000, 1000, 0.0)
    shown = [Served(LARGE, H200, 4, 1, n).answering(asked)[WEIGHTS] for n in (64, 640)]
    assert shown[0] == pytest.approx(shown[1])


def test_the_first_token_of_an_answer_follows_from_the_reading() -> None:
    labels, one, two = (
        total(Served(LARGE, H200, 4, 1, 64), Asked(64, 6400, 100, n)) for n in (0.0, 1.0, 2.0)
    )
    assert labels == one < two


def test_devices_share_calls_in_process_and_answers_cost_time() -> None:
    held = Held(SHAPES["qwen2.5-7b"])
    one, two = (InProcess(held, H200, n, 4096) for n in (1, 2))
    asked, half = Asked(4000, 4000 * 50, 100, 0.0), Asked(2000, 2000 * 50, 100, 0.0)
    assert total(two, asked) == pytest.approx(total(one, half))
    assert total(one, Asked(400, 4000, 100, 20.0)) > 2 * total(one, Asked(400, 4000, 100, 0.0))
    assert one.answering(Asked(0, 0, 0, 0.0)) == {}


def test_an_api_answers_in_waves_at_its_pace() -> None:
    assert total(Elsewhere(8, None), Asked(81, 0, 0, 0.0)) == 11
    assert total(Elsewhere(8, 60.0), Asked(81, 0, 0, 0.0)) == 81
