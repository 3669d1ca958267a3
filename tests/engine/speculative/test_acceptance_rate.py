"""Draft tokens are proposed as long as they pay, and speculation pauses while they do not."""

from app.engine.speculative.acceptance_rate import AcceptanceRate, best_draft_length


def test_speculation_that_does_not_pay_pauses_for_longer_each_time() -> None:
    rate, length = AcceptanceRate(0.5), 0
    pauses = []
    for _ in range(2):
        while count := rate.draft_length(4, 0.3, length):
            rate.learn(count, 0)
            length += 1
        began = length
        while not rate.draft_length(4, 0.3, length):
            length += 1
        pauses.append(length - began)
    assert pauses[1] > pauses[0] > 32


def test_best_draft_length_grows_with_the_acceptance_rate_and_falls_with_the_cost() -> None:
    by_rate = [best_draft_length(rate, 0.1, 7) for rate in (0.05, 0.3, 0.6, 0.9)]
    by_cost = [best_draft_length(0.6, cost, 7) for cost in (0.7, 0.3, 0.1, 0.0)]
    assert by_rate == sorted(set(by_rate)) and by_rate[0] == 0
    assert by_cost == sorted(set(by_cost)) and (by_cost[0], by_cost[-1]) == (0, 7)


def test_acceptance_rate_follows_a_change() -> None:
    rate = AcceptanceRate(0.5)
    for _ in range(10):
        rate.learn(4, 4)
    assert rate.draft_length(7, 0.1, 0) == 7
    for _ in range(10):
        rate.learn(4, 0)
    assert rate.draft_length(7, 0.1, 0) < 3
