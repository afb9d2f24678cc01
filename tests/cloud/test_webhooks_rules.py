"""Rules of webhooks: signatures, the schedule, lanes, and where webhooks may go."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from cloud.rules import delivery, signing, targets
from cloud.rules.delivery import Attempted, Candidate
from cloud.rules.targets import Fault, Target

BODY = b'{"type":"profile.updated","data":{"name":"\xc3\xa9"}}'
OLD, NEW = (signing.secret_of(bytes([number]) * 32) for number in (1, 2))


def signed(*secrets: str, at_s: int | None = None, body: bytes = BODY) -> dict[str, str]:
    at_s = int(time.time()) if at_s is None else at_s
    return signing.headers(secrets, event_id="msg_1", timestamp_s=at_s, attempt=3, body=body)


class TestSigning:
    def test_the_library_of_standard_webhooks_verifies_each_secret_of_a_rotation(self) -> None:
        headers = signed(NEW, OLD)
        for secret in (NEW, OLD):
            assert Webhook(secret).verify(BODY, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(signing.secret_of(b"x" * 32)).verify(BODY, headers)

    def test_what_the_library_signs_is_verified(self) -> None:
        at = datetime.fromtimestamp(1_700_000_000, UTC)
        headers = {
            "Webhook-Id": "msg_9",
            "Webhook-Timestamp": "1700000000",
            "Webhook-Signature": Webhook(OLD).sign("msg_9", at, BODY.decode()),
        }
        found = signing.verified([NEW, OLD], headers, BODY)
        assert found == signing.Verified(scheme="standard", id="msg_9", timestamp_s=1_700_000_000)

    def test_the_plain_signature_is_keyed_with_the_secret_as_it_is_written(self) -> None:
        expected = [hmac.new(each.encode(), BODY, hashlib.sha256).hexdigest() for each in (NEW, OLD)]
        assert signed(NEW, OLD)["x-webhook-signature"] == ",".join(expected)
        for written in (expected[1], f"sha256={expected[1]}", f"{expected[0]},{expected[1]}", expected[1].upper()):
            found = signing.verified([OLD], {"X-Webhook-Signature": written}, BODY)
            assert found == signing.Verified(scheme="legacy")

    @pytest.mark.parametrize(
        "change",
        [
            {"webhook-id": "msg_2"},
            {"webhook-id": ""},
            {"webhook-id": "m\u00e9"},
            {"webhook-timestamp": "1700000001"},
            {"webhook-timestamp": "-1"},
            {"webhook-timestamp": "1e9"},
            {"webhook-timestamp": "9" * 40},
            {"webhook-signature": "v1,AAAA"},
            {"webhook-signature": "v1a,AAAA"},
            {"webhook-signature": ""},
            {"webhook-signature": "\udcff\u00e9"},
        ],
    )
    def test_a_standard_signature_that_does_not_hold_is_not_saved_by_the_plain_one(
        self, change: dict[str, str]
    ) -> None:
        headers = signed(OLD, at_s=1_700_000_000)
        assert signing.verified([OLD], headers, BODY) is not None
        assert signing.verified([OLD], headers | change, BODY) is None

    @pytest.mark.parametrize("secrets", [[], [""], ["another"], [NEW]])
    def test_without_the_secret_nothing_holds(self, secrets: list[str]) -> None:
        headers = signed(OLD)
        assert signing.verified(secrets, headers, BODY) is None
        assert signing.verified(secrets, {"x-webhook-signature": headers["x-webhook-signature"]}, BODY) is None
        assert signing.verified(secrets, {}, BODY) is None

    @pytest.mark.parametrize("secret", ["plain text", "whsec_not base64!", "p\u00e4ss"])
    def test_a_secret_of_plain_text_signs_in_both_ways(self, secret: str) -> None:
        headers = signed(secret)
        assert signing.verified([secret], headers, BODY) is not None
        assert signing.verified([secret], {"x-webhook-signature": headers["x-webhook-signature"]}, BODY) is not None


class TestSchedule:
    def test_nine_more_attempts_with_growing_pauses_then_it_is_failed(self) -> None:
        failed = Attempted(at_ms=1000, duration_ms=500, status_code=500, error="http-status")
        pauses = []
        for attempt in range(1, 10):
            verdict = delivery.judge(failed, attempt=attempt, failing_since_ms=None, chance=0.5)
            assert verdict.state == "pending"
            pauses.append((verdict.due_at_ms - 1500) / 1000)
        hours = 3600.0
        assert pauses == [5, 300, 1800, 2 * hours, 5 * hours, 10 * hours, 14 * hours, 20 * hours, 24 * hours]
        assert delivery.judge(failed, attempt=10, failing_since_ms=None, chance=0.5).state == "failed"

    @given(attempt=st.integers(1, 9), chance=st.floats(0, 1))
    def test_jitter_is_a_tenth(self, attempt: int, chance: float) -> None:
        middle = delivery.DELAYS_MS[attempt - 1]
        assert middle * 0.9 - 1 <= delivery.delay_ms(attempt, chance) <= middle * 1.1 + 1

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("120", 120),
            (" 7 ", 7),
            ("Thu, 01 Jan 1970 00:01:40 GMT", 90),
            ("99999999999999999999", 86_400),
            ("Fri, 01 Jan 2300 00:00:00 GMT", 86_400),
            ("-5", 0),
            ("", 0),
            ("soon", 0),
            ("1.5", 0),
            ("\u0661\u0662", 0),
            ("Thu, 01 Jan 1960 00:00:00 GMT", 0),
            ("Thu, 99 Jan 99999999999 00:00:00 GMT", 0),
        ],
    )
    def test_retry_after(self, text: str, seconds: int) -> None:
        assert delivery.retry_after_ms(text, 10_000) == seconds * 1000

    def test_a_busy_endpoint_is_held_and_the_delivery_waits_at_least_as_long(self) -> None:
        busy = Attempted(at_ms=0, duration_ms=0, status_code=429, error="http-status", retry_after="3600")
        verdict = delivery.judge(busy, attempt=1, failing_since_ms=None, chance=0.5)
        assert (verdict.due_at_ms, verdict.held_until_ms) == (3_600_000, 3_600_000)
        slow = delivery.judge(busy, attempt=5, failing_since_ms=None, chance=0.5)
        assert (slow.due_at_ms, slow.held_until_ms) == (5 * 3_600_000, 3_600_000)

    def test_410_and_five_days_disable(self) -> None:
        gone = Attempted(at_ms=0, duration_ms=0, status_code=410, error="endpoint-gone")
        assert delivery.judge(gone, attempt=1, failing_since_ms=None, chance=0.5).disable
        dead = Attempted(at_ms=delivery.PATIENCE_MS, duration_ms=0, error="timeout")
        assert delivery.judge(dead, attempt=2, failing_since_ms=1, chance=0.5).disable == ""
        verdict = delivery.judge(dead, attempt=2, failing_since_ms=0, chance=0.5)
        assert (verdict.state, verdict.disable) == ("failed", "nothing came through for 5 days; last: timeout")

    @pytest.mark.parametrize(
        ("status", "error"),
        [(200, None), (204, None), (299, None), (199, "http-status"), (301, "redirect"), (304, "redirect"),
         (400, "http-status"), (410, "endpoint-gone"), (500, "http-status")],
    )  # fmt: skip
    def test_what_a_status_says(self, status: int, error: str | None) -> None:
        assert delivery.error_of(status) == error

    @pytest.mark.parametrize(
        ("filters", "kind", "wanted"),
        [
            (["*"], "upload.completed", True),
            (["profile.*"], "profile.updated", True),
            (["profile.updated"], "profile.created", False),
            (["device.*", "profile.created"], "profile.created", True),
            ([], "profile.created", False),
        ],
    )
    def test_filters(self, filters: list[str], kind: str, wanted: bool) -> None:
        assert delivery.wants(filters, kind) is wanted

    @pytest.mark.parametrize("text", ["profle.*", "profile", "profile.", ".*", "**", "profile.*.*", "", "webhook.test"])
    def test_filters_that_can_never_match(self, text: str) -> None:
        assert not delivery.is_filter(text)


class TestLanes:
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["due", "later", "taken"])), max_size=40),
        st.integers(0, 4),
        st.integers(1, 5),
    )
    def test_nothing_overtakes_in_its_resource(
        self, unfinished: list[tuple[str, str]], room: int, lane_max: int
    ) -> None:
        last: dict[str, int] = {}
        rows = []
        for number, (resource, standing) in enumerate(unfinished, 1):
            if standing == "due":
                rows.append(Candidate(id=number, resource=resource, earlier=last.get(resource)))
            last[resource] = number
        lanes, blocked = delivery.lanes(rows[::-1], room=room, lane_max=lane_max)
        assert len(lanes) <= room
        taken = [number for lane in lanes for number in lane]
        for lane in lanes:
            assert 1 <= len(lane) <= lane_max
            resource = unfinished[lane[0] - 1][0]
            all_of_it = [number for number, (each, _) in enumerate(unfinished, 1) if each == resource]
            assert lane == all_of_it[: len(lane)]
        assert not {each.id for each in blocked} & set(taken)
        for earlier, later in pairwise(taken):
            assert earlier != later

    def test_free_resources_fill_the_room(self) -> None:
        rows = [Candidate(id=number, resource=str(number % 5), earlier=None) for number in range(5)]
        assert delivery.lanes(rows, room=3)[0] == [[0], [1], [2]]


class TestHealth:
    def test_limits(self) -> None:
        well = delivery.health(attempts=10, failures=1, oldest_wait_ms=900_000, disabled=0)
        assert (well.healthy, well.failure_rate, well.message) == (True, 0.1, "deliveries come through")
        ill = delivery.health(attempts=10, failures=2, oldest_wait_ms=900_001, disabled=2)
        assert not ill.healthy
        assert ill.message == (
            "2 of 10 attempts failed within a day; the oldest delivery waits for 15 minutes; 2 endpoints are disabled"
        )
        assert delivery.health(attempts=0, failures=0, oldest_wait_ms=0, disabled=0).healthy


REFUSED = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:10::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1",
    "5f00::1",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1")


class TestTargets:
    @pytest.mark.parametrize("text", REFUSED)
    def test_addresses_that_are_refused(self, text: str) -> None:
        address = ipaddress.ip_address(text)
        assert not targets.permitted(address, ())
        written = f"[{text}]" if ":" in text else text
        judged = targets.judge(f"https://{written}/hook", ())
        assert isinstance(judged, Fault)
        assert judged.code == "target-refused"
        assert targets.permitted(address, targets.networks(text))

    @pytest.mark.parametrize("text", PUBLIC)
    def test_public_addresses_by_https_alone(self, text: str) -> None:
        address = ipaddress.ip_address(text)
        assert targets.permitted(address, ())
        assert not targets.permitted(address, (), plain=True)
        assert not targets.permitted(address, targets.networks("127.0.0.0/8"), plain=True)
        written = f"[{text}]" if ":" in text else text
        assert isinstance(targets.judge(f"https://{written}:8443/hook?x=1", ()), Target)
        assert isinstance(targets.judge(f"http://{written}/hook", ()), Fault)
        assert isinstance(targets.judge(f"http://{written}/hook", targets.networks("127.0.0.0/8")), Fault)

    @pytest.mark.parametrize(
        "url",
        [
            "https://0x7f.1/", "https://0x7f000001/", "https://2130706433/", "https://127.1/", "https://017700000001/",
            "https://0177.0.0.1/", "https://127.0.0.1./", "https://127.0.0.01/", "https://localhost/",
            "https://LOCALHOST/", "https://a.localhost/", "https://localhost./", "https://example.com./",
            "https://user@example.com/", "https://user:pw@example.com/", "https://example.com:80@127.0.0.1/",
            "https://example.com#@127.0.0.1/", "https://example.com\\@127.0.0.1/", "https://[::1]/", "https://[::1%25eth0]/",
            "https://[fe80::1%eth0]/", "https://%31%32%37.0.0.1/", "https://\uff11\uff12\uff17.0.0.1/", "https://ex\u00e4mple.com/",
            "https:///hook", "https://", "https://example.com:0/", "https://example.com:99999/", "https://a b.com/",
            "https://example.com/\n", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/",
            "//example.com/", "example.com", "", "https://[::1/", "https://a..b/", "https://.a/", "https://-a/",
            "https://" + "a" * 3000, "https://1.2.3.4.5/", "https://example.0x1/",
        ],
    )  # fmt: skip
    def test_spellings_that_are_refused(self, url: str) -> None:
        judged = targets.judge(url, ())
        assert isinstance(judged, Fault)
        assert judged.detail

    @pytest.mark.parametrize(
        "url", ["https://example.com", "https://example.com:8443/a/b?c=d", "https://a_b.example.com/", "https://x1.2y/"]
    )
    def test_names_pass_until_they_are_looked_up(self, url: str) -> None:
        judged = targets.judge(url, ())
        assert isinstance(judged, Target)
        assert judged.address is None

    def test_what_the_setting_permits(self) -> None:
        allow = targets.networks("127.0.0.0/8, 10.1.2.3,")
        for url in ("http://127.0.0.1:8000/", "https://10.1.2.3/", "http://localhost/", "https://[::ffff:10.1.2.3]/"):
            assert isinstance(targets.judge(url, allow), Target), url
        for url in ("http://10.1.2.4/", "https://10.1.2.4/", "http://8.8.8.8/", "https://[::1]/"):
            assert isinstance(targets.judge(url, allow), Fault), url
        with pytest.raises(ValueError, match="does not appear"):
            targets.networks("example.com")

    @given(st.text(max_size=60))
    def test_any_text_is_judged(self, text: str) -> None:
        for url in (text, f"https://{text}", f"https://{text}/x", f"http://[{text}]/"):
            targets.judge(url, targets.networks("127.0.0.0/8"))
