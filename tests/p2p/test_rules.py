"""The rules without I/O: addresses, queues, budget, scores, admission, whom to dial."""

import pytest
import trio

from p2p import keeping
from p2p.address import parse_address, parse_peer_address
from p2p.admission import (
    ANNOUNCEMENTS_PER_S_AND_PEER_MAX,
    ANNOUNCEMENTS_PER_S_MAX,
    CONNECTIONS_SPARE,
    Admission,
)
from p2p.frames import Hello
from p2p.handshake import get_mismatch, is_preferred
from p2p.identity import get_peer_id, is_peer_id
from p2p.keeping import AddressBook, Source, fill_in_host
from p2p.network import (
    QUEUE_BYTES_MAX,
    QUEUE_MESSAGES_MAX,
    SCORE_MAX,
    NetworkConfig,
    PeerId,
    Priority,
)
from p2p.outbox import CONTROL_FRAMES_MAX, Outbox
from p2p.pacing import BURST_S, SLACK_S, Pacer
from p2p.scoring import SCORE_AFTER_BAN, SCORES_MAX, ScoreBook

SEEDS = [index.to_bytes(32, "big") for index in range(64)]
IDS = sorted(get_peer_id(seed) for seed in SEEDS)
OWN, PEERS = IDS[0], IDS[1:]


def address_of(peer: PeerId, port: int = 1000) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"


def build_config(**settings: object) -> NetworkConfig:
    defaults: dict[str, object] = {
        "chain_id": "c",
        "genesis_hash": bytes(32),
        "protocol_version": 1,
        "key_seed": bytes(32),
        "listen": "/ip4/127.0.0.1/tcp/0",
    }
    return NetworkConfig(**(defaults | settings))  # type: ignore[arg-type]


def test_a_peer_id_is_the_one_libp2p_gives() -> None:
    # From the libp2p specification "Peer Ids and Keys", test vectors, Ed25519 public key.
    assert get_peer_id(bytes(range(32))) == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
    assert is_peer_id(get_peer_id(bytes(32)))
    assert not is_peer_id("12D3KooW/../etc")


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/1",
        "/ip6/::1/tcp/65535",
        "/dns/node.example.org/tcp/26656",
        address_of(OWN),
    ],
)
def test_an_address_reads_back(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "127.0.0.1:1",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/127.0.0.256/tcp/1",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/\u0661",
        "/ip6/fe80::1%eth0/tcp/1",
        "/dns/-bad-/tcp/1",
        "/unix/x/tcp/1",
        "/ip4/127.0.0.1/tcp/1/p2p/short",
        "/ip4/127.0.0.1/tcp/1/ipfs/" + OWN,
        "/dns/" + "x" * 400 + "/tcp/1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|host|port|p2p"):
        parse_address(text)


def test_a_peer_address_needs_a_peer_and_a_port() -> None:
    with pytest.raises(ValueError, match="lacks /p2p"):
        parse_peer_address("/ip4/127.0.0.1/tcp/1")
    with pytest.raises(ValueError, match="port 0"):
        parse_peer_address(address_of(OWN, 0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain_id", ""),
        ("chain_id", "a/b"),
        ("chain_id", "x" * 51),
        ("genesis_hash", bytes(31)),
        ("key_seed", bytes(33)),
        ("protocol_version", -1),
        ("peers_max", 0),
        ("heartbeat_s", 0),
        ("peer_timeout_s", 0.3),
    ],
)
def test_a_bad_setting_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        build_config(**{name: value})


def test_the_seed_is_not_shown() -> None:
    assert "key_seed" not in repr(build_config())


async def test_the_outbox_gives_the_most_urgent_first() -> None:
    outbox = Outbox()
    outbox.put(Priority.BULK, b"bulk")
    outbox.put(Priority.MEMPOOL, b"mempool")
    outbox.put(Priority.CONSENSUS, b"consensus")
    outbox.put_control(b"control")
    outbox.put_heartbeat(b"old")
    outbox.put_heartbeat(b"heartbeat")
    frames, n_bulk = outbox.take(1000, with_bulk=True)
    assert frames == [b"heartbeat", b"control", b"consensus", b"mempool", b"bulk"]
    assert n_bulk == 4
    assert len(outbox) == 0


async def test_the_outbox_fills_a_write_and_no_more() -> None:
    outbox = Outbox()
    for _ in range(5):
        outbox.put(Priority.MEMPOOL, bytes(400))
    outbox.put(Priority.BULK, b"x")
    assert outbox.take(1000, with_bulk=True) == ([bytes(400)] * 2, 0)
    assert outbox.take(100, with_bulk=True) == ([bytes(400)], 0)
    assert outbox.take(1000, with_bulk=False) == ([bytes(400)] * 2, 0)
    assert outbox.take(1000, with_bulk=False) == ([], 0)
    assert outbox.take(1000, with_bulk=True) == ([b"x"], 1)


@pytest.mark.parametrize("priority", list(Priority))
async def test_the_outbox_is_bounded(priority: Priority) -> None:
    outbox = Outbox()
    n_max = QUEUE_MESSAGES_MAX[priority]
    assert all(outbox.put(priority, b"") for _ in range(n_max))
    assert not outbox.put(priority, b"")
    outbox = Outbox()
    frame = bytes(QUEUE_BYTES_MAX[priority] // 2)
    assert outbox.put(priority, frame)
    assert outbox.put(priority, frame)
    assert not outbox.put(priority, b"x")
    outbox.take(1, with_bulk=True)
    assert outbox.put(priority, b"x")


async def test_control_frames_are_bounded_and_a_closed_outbox_takes_nothing() -> None:
    outbox = Outbox()
    assert all(outbox.put_control(b"x") for _ in range(CONTROL_FRAMES_MAX))
    assert not outbox.put_control(b"x")
    outbox.clear()
    outbox.put_heartbeat(b"x")
    assert not outbox.put(Priority.BULK, b"x")
    assert not outbox.put_control(b"x")
    assert len(outbox) == 0
    await outbox.wait()


def test_the_pacer_keeps_to_its_budget() -> None:
    pacer = Pacer(1000)
    assert pacer.charge(100, 10.0) == 0
    assert pacer.get_delay(10.0) == pytest.approx(0.1 - BURST_S)
    assert pacer.charge(100, 10.0) == pytest.approx(0.1 - BURST_S)
    assert pacer.charge(100, 10.0) == pytest.approx(0.2 - BURST_S)
    # Nothing is saved up beyond the burst.
    assert pacer.charge(100, 1000.0) == 0
    assert pacer.get_delay(1000.0) == pytest.approx(0.1 - BURST_S)


async def test_nobody_is_woken_for_what_is_nearly_due(
    autojump_clock: object,  # noqa: ARG001 - it works by being asked for.
) -> None:
    pacer = Pacer(1_000_000)
    await trio.sleep(1)
    began = trio.current_time()
    for n_bytes in (BURST_S * 1_000_000, SLACK_S * 900_000, 1):
        await pacer.wait(int(n_bytes))
    assert trio.current_time() - began == pytest.approx(0, abs=0.001)
    # What was sent early is waited for later: the budget is kept.
    await pacer.wait(100_000)
    await pacer.wait(100_000)
    assert trio.current_time() - began == pytest.approx(0.1045, abs=0.001)
    await pacer.wait(1)
    assert trio.current_time() - began == pytest.approx(0.2045, abs=0.001)


def test_scores_recover_and_bans_expire() -> None:
    book = ScoreBook(ban_s=60)
    assert book.get_score(OWN, 0) == SCORE_MAX
    assert not book.lower(OWN, 30, 0)
    assert book.get_score(OWN, 0) == 70
    assert book.get_score(OWN, 10) == 80
    assert book.get_score(OWN, 1000) == SCORE_MAX
    assert book.lower(OWN, 100, 1000)
    assert book.is_banned(OWN, 1059.9)
    assert not book.is_banned(OWN, 1060)
    assert book.get_score(OWN, 1060) == SCORE_AFTER_BAN
    assert book.get_score(OWN, 1065) == SCORE_AFTER_BAN + 5
    with pytest.raises(ValueError, match="negative"):
        book.lower(OWN, -1, 0)


def test_scores_are_bounded_in_number() -> None:
    book = ScoreBook(60)
    for index in range(SCORES_MAX + 10):
        book.lower(PeerId(str(index)), 10, 0)
    assert len(book) == SCORES_MAX
    assert book.get_score(PeerId("0"), 0) == SCORE_MAX
    assert book.get_score(PeerId("10"), 0) == 90


def test_admission_of_connections_and_links() -> None:
    scores = ScoreBook(60)
    config = build_config(peers_max=2, peers_per_address_max=1, unconditional_peers=(PEERS[0],))
    admission = Admission(config, OWN, scores)
    assert admission.get_link_objection(PEERS[1], "a", [], 0) is None
    assert admission.get_link_objection(OWN, "a", [], 0) == "it is this node"
    assert "address" in str(admission.get_link_objection(PEERS[1], "a", ["a"], 0))
    assert "no room" in str(admission.get_link_objection(PEERS[1], "c", ["a", "b"], 0))
    assert admission.get_link_objection(PEERS[0], "a", ["a", "a"], 0) is None
    n_max = 2 + CONNECTIONS_SPARE
    assert admission.get_connection_objection(PEERS[1], n_max, 0) is None
    assert "no room" in str(admission.get_connection_objection(PEERS[1], n_max + 1, 0))
    assert admission.get_connection_objection(PEERS[0], n_max + 1, 0) is None
    for peer in PEERS[:2]:
        scores.lower(peer, 1000, 0)
    assert admission.get_connection_objection(PEERS[1], 0, 0) == "banned"
    assert admission.get_connection_objection(PEERS[0], 0, 0) is None
    listed = Admission(build_config(allowed_peers=frozenset({PEERS[2]})), OWN, scores)
    assert listed.get_peer_objection(PEERS[2], 0) is None
    assert "list" in str(listed.get_peer_objection(PEERS[3], 0))


def test_forwarded_announcements_are_bounded_per_peer_and_in_all() -> None:
    admission = Admission(build_config(), OWN, ScoreBook(60))
    taken = [admission.may_forward(PEERS[0], 5.0) for _ in range(100)]
    assert sum(taken) == ANNOUNCEMENTS_PER_S_AND_PEER_MAX
    assert admission.may_forward(PEERS[0], 6.0)
    taken = [admission.may_forward(peer, 7.0) for peer in PEERS for _ in range(20)]
    assert sum(taken) == ANNOUNCEMENTS_PER_S_MAX


def test_the_lower_peer_id_dials_first() -> None:
    low, high = AddressBook(IDS[0]), AddressBook(IDS[1])
    low.add(address_of(IDS[1]), Source.PERSISTENT, 0.0)
    high.add(address_of(IDS[0]), Source.PERSISTENT, 0.0)
    assert [peer for peer, _ in low.take_due(set(), 0.0)] == [IDS[1]]
    assert high.take_due(set(), keeping.TURN_S / 2) == []
    assert [peer for peer, _ in high.take_due(set(), keeping.TURN_S)] == [IDS[0]]


def test_a_failed_dial_waits_longer_each_time() -> None:
    book = AddressBook(OWN)
    book.add(address_of(PEERS[0]), Source.PERSISTENT, 0.0)
    now, waits = 0.0, []
    assert book.take_due(set(), now)
    for _ in range(10):
        # While one dial is under way there is no other.
        assert book.take_due(set(), now + 1000) == []
        book.record_failure(PEERS[0], now)
        start = now
        while not book.take_due(set(), now):
            now += 0.125
        waits.append(now - start)
    assert waits[0] == keeping.RETRY_FIRST_S
    assert waits == sorted(waits)
    assert max(waits) <= keeping.RETRY_MAX_S


def test_bootstrap_peers_are_dialed_only_while_there_are_few_links() -> None:
    book = AddressBook(OWN)
    book.add(address_of(PEERS[0]), Source.BOOTSTRAP, 0.0)
    book.add(address_of(PEERS[1]), Source.PERSISTENT, 0.0)
    many = set(PEERS[10 : 10 + keeping.LINKS_WANTED])
    assert [peer for peer, _ in book.take_due(many, 1.0)] == [PEERS[1]]
    assert [peer for peer, _ in book.take_due(set(), 1.0)] == [PEERS[0]]


def test_dials_at_a_time_are_bounded() -> None:
    book = AddressBook(OWN)
    for peer in PEERS:
        book.add(address_of(peer), Source.PERSISTENT, 0.0)
    assert len(book.take_due(set(), 5.0)) == keeping.DIALS_AT_ONCE_MAX
    assert book.take_due(set(), 5.0) == []


def test_addresses_told_by_peers_are_believed_within_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "ADDRESSES_KNOWN_MAX", 3)
    book = AddressBook(OWN)
    book.add(address_of(PEERS[0], 1), Source.PERSISTENT, 0.0)
    told = (
        address_of(OWN),
        address_of(PEERS[0], 2),
        "nonsense",
        f"/ip4/0.0.0.0/tcp/1/p2p/{PEERS[1]}",
        f"/ip4/9.9.9.9/tcp/1/p2p/{PEERS[2]}",
        f"/dns/example.org/tcp/1/p2p/{PEERS[3]}",
        address_of(PEERS[4]),
    )
    # A peer on another machine cannot name addresses of this one.
    assert book.learn(told, "8.8.8.8", 0.0) == 2
    assert book.learn(told, "127.0.0.1", 0.0) == 1
    more = tuple(f"/ip4/9.9.9.9/tcp/1/p2p/{peer}" for peer in PEERS[10:20])
    assert book.learn(more, "8.8.8.8", 0.0) == 0
    assert len(book) == 4
    due = dict(book.take_due(set(), 5.0))
    assert due[PEERS[0]].port == 1


def test_an_exchanged_address_that_never_answers_is_forgotten() -> None:
    book = AddressBook(OWN)
    book.learn((f"/ip4/9.9.9.9/tcp/1/p2p/{PEERS[0]}",), "8.8.8.8", 0.0)
    for attempt in range(keeping.RETRIES_EXCHANGED_MAX):
        assert book.take_due(set(), 100.0 * attempt + 1)
        book.record_failure(PEERS[0], 100.0 * attempt + 1)
    assert len(book) == 0


def test_persistent_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PERSISTENT_MAX", 2)
    book = AddressBook(OWN)
    for peer in PEERS[:2]:
        book.add(address_of(peer), Source.PERSISTENT, 0.0)
    with pytest.raises(ValueError, match="at most 2"):
        book.add(address_of(PEERS[2]), Source.PERSISTENT, 0.0)


def test_the_host_of_a_peer_that_listens_everywhere_is_the_one_seen() -> None:
    everywhere = parse_address("/ip4/0.0.0.0/tcp/7")
    assert str(fill_in_host(everywhere, "10.1.2.3")) == "/ip4/10.1.2.3/tcp/7"
    assert str(fill_in_host(everywhere, "::1")) == "/ip6/::1/tcp/7"
    assert fill_in_host(everywhere, "") is None
    named = parse_address("/dns/example.org/tcp/7")
    assert fill_in_host(named, "10.1.2.3") == named


def test_both_ends_keep_the_same_of_two_links() -> None:
    low, high = PeerId("a"), PeerId("b")
    same = bytes(16)

    def keeps_new(opener: PeerId, other_opener: PeerId, instance: bytes = same) -> bool:
        return is_preferred(
            opener=opener, instance=instance, other_opener=other_opener, other_instance=same
        )

    # Whichever link comes second, the one that the lower id opened stays.
    assert keeps_new(low, high)
    assert not keeps_new(high, low)
    # A second one by the same opener means that it lost the first.
    assert keeps_new(low, low)
    assert keeps_new(high, high)
    # A peer that has restarted has lost the first in any case.
    assert keeps_new(high, low, bytes([1]) * 16)


def test_what_differs_is_named() -> None:
    config = build_config()

    def mismatch(*fields: object) -> str:
        return str(get_mismatch(config, Hello(*fields, bytes(16), "")))  # type: ignore[arg-type]

    assert mismatch(1, "c", bytes(32), 1) == "None"
    assert mismatch(2, "c", bytes(32), 1).startswith("network version 2")
    assert mismatch(1, "d", bytes(32), 1).startswith("chain 'd'")
    assert mismatch(1, "c", bytes([1]) * 32, 1).startswith("genesis 01")
    assert mismatch(1, "c", bytes(32), 2).startswith("protocol version 2")
