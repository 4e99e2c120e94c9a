//! Suites that every implementation of a trait passes.

use crate::store::{Batch, Entry, Kv, Refused, Size, Space, Store, Version};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// What [`Kv`] promises, over stores that `make` gives: an empty one each time. Needs a runtime with several threads, or
/// else nothing happens at once.
///
/// ```no_run
/// use isopod::testkit::conformance;
///
/// #[tokio::test(flavor = "multi_thread")]
/// async fn my_store_keeps_its_promises() {
///     conformance::kv(isopod::Store::memory).await;
/// }
/// ```
///
/// # Panics
/// When a promise is broken.
pub async fn kv(make: impl Fn() -> Store) {
    values_come_back(make().kv()).await;
    odd_keys_are_keys_like_others(make().kv()).await;
    spaces_are_apart(make().kv()).await;
    versions_never_come_back(make().kv()).await;
    batches_happen_whole_or_not_at_all(make().kv()).await;
    bounds_hold_to_the_byte(make().kv()).await;
    lists_are_whole_and_in_order(make().kv()).await;
    lists_are_stable_under_writes(&make()).await;
    increments_add_up(&make()).await;
    swaps_lose_nothing(&make()).await;
    bounds_hold_under_contention(&make()).await;
    batches_are_seen_whole(&make()).await;
    random_batches_do_what_a_map_does(make().kv()).await;
}

fn space() -> Space {
    Space::new(Some("acme"), "state")
}

async fn commit(kv: &dyn Kv, batch: Batch) -> Version {
    kv.commit(batch).await.expect("the batch is written").version
}

async fn entry(kv: &dyn Kv, space: &Space, key: &[u8]) -> Option<Entry> {
    kv.get(space, key).await.expect("it can be read")
}

async fn value(kv: &dyn Kv, space: &Space, key: &[u8]) -> Option<Bytes> {
    entry(kv, space, key).await.map(|entry| entry.value)
}

async fn size(kv: &dyn Kv, space: &Space) -> Size {
    kv.size(space).await.expect("it can be read")
}

/// All keys, by pages of `limit`.
async fn keys(kv: &dyn Kv, space: &Space, prefix: &[u8], limit: usize) -> Vec<Bytes> {
    let mut all: Vec<Bytes> = Vec::new();
    loop {
        let page = kv.list(space, prefix, all.last().map(|key| &key[..]), limit).await.expect("it can be listed");
        assert!(page.len() <= limit, "{} keys in a page of {limit}", page.len());
        let last = page.len() < limit;
        all.extend(page);
        if last {
            return all;
        }
    }
}

async fn values_come_back(kv: &dyn Kv) {
    let s = space();
    assert_eq!(value(kv, &s, b"a").await, None);
    assert_eq!((keys(kv, &s, b"", 10).await, size(kv, &s).await), (vec![], Size::default()));
    commit(kv, Batch::new().set(&s, "a", "one").set(&s, "empty", "")).await;
    assert_eq!(value(kv, &s, b"a").await.unwrap(), "one");
    assert_eq!(value(kv, &s, b"empty").await.unwrap(), "", "an empty value is a value");
    assert_eq!(size(kv, &s).await, Size { bytes: 9, keys: 2 });
    let large = Bytes::from(vec![7; 3 * 1024 * 1024]);
    commit(kv, Batch::new().set(&s, "a", large.clone())).await;
    assert_eq!(value(kv, &s, b"a").await.unwrap(), large);
    let found = kv.get_many(&s, &["empty".into(), "none".into(), "a".into(), "empty".into()], usize::MAX).await;
    let found = found.expect("they can be read");
    let lengths: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|entry| entry.value.len())).collect();
    assert_eq!(lengths, [Some(0), None, Some(large.len()), Some(0)], "answers come in the order of the keys");
    let many = async |keys: &[Bytes], room: usize| kv.get_many(&s, keys, room).await.expect("they can be read").len();
    let (a, empty, none) = (Bytes::from("a"), Bytes::from("empty"), Bytes::from("none"));
    assert_eq!(many(&[], 0).await, 0);
    assert_eq!(many(&[a.clone(), a.clone()], large.len()).await, 1, "a second one has no room");
    assert_eq!(many(&[a.clone(), empty.clone(), none.clone(), a.clone()], large.len()).await, 3);
    assert_eq!(many(&[empty, none, a.clone(), a.clone()], 2 * large.len()).await, 4);
    assert_eq!(many(&[a.clone(), a], 0).await, 1, "the first one always has room");
    commit(kv, Batch::new().delete(&s, "a").delete(&s, "empty").delete(&s, "never")).await;
    assert_eq!(value(kv, &s, b"a").await, None);
    assert_eq!((keys(kv, &s, b"", 10).await, size(kv, &s).await), (vec![], Size::default()));
}

async fn odd_keys_are_keys_like_others(kv: &dyn Kv) {
    let s = space();
    let long = vec![b'k'; 64 * 1024];
    let odd: Vec<Bytes> =
        [&b""[..], b"\0", b"\0\0", b"a\0", b"a\0b", b"a/b", b"\xff", b"\xff\xff", "é\u{202e}".as_bytes()]
            .into_iter()
            .chain([&long[..]])
            .map(Bytes::copy_from_slice)
            .collect();
    commit(kv, odd.iter().fold(Batch::new(), |batch, key| batch.set(&s, key.clone(), key.clone()))).await;
    for key in &odd {
        assert_eq!(value(kv, &s, key).await.as_ref(), Some(key));
    }
    let mut sorted = odd.clone();
    sorted.sort();
    assert_eq!(keys(kv, &s, b"", 3).await, sorted, "keys come in the order of their bytes");
    assert_eq!(keys(kv, &s, b"a", 1).await, ["a\0", "a\0b", "a/b"]);
    assert_eq!(keys(kv, &s, b"\xff", 1).await, [&b"\xff"[..], b"\xff\xff"]);
}

async fn spaces_are_apart(kv: &dyn Kv) {
    let names =
        ["", "a", "b", "ab", "a/b", "/", "\0", "\0a", "\u{1}", "\0\0\0\u{1}a", "b\0\0\0\u{1}", "%00", "..", "'; --"];
    let tenants: Vec<Option<&str>> = names.iter().copied().map(Some).chain([None]).collect();
    let spaces: Vec<Space> =
        tenants.iter().flat_map(|tenant| names.map(|bucket| Space::new(*tenant, bucket))).collect();
    for space in &spaces {
        commit(kv, Batch::new().set(space, "who", format!("{space:?}"))).await;
    }
    for space in &spaces {
        let own = format!("{space:?}");
        assert_eq!(value(kv, space, b"who").await.unwrap(), own, "another space was written");
        assert_eq!(keys(kv, space, b"", 10).await, ["who"], "{own}");
        assert_eq!(size(kv, space).await, Size { bytes: own.len() as u64 + 3, keys: 1 });
    }
    let (one, other) = (&spaces[1], &spaces[2]);
    commit(kv, Batch::new().delete(one, "who").set(other, "who", "both in one batch")).await;
    assert_eq!((size(kv, one).await.keys, size(kv, other).await.bytes), (0, 20));
}

async fn versions_never_come_back(kv: &dyn Kv) {
    let s = space();
    let mut last = None;
    for _ in 0..3 {
        let made = commit(kv, Batch::new().expect(&s, "a", None).set(&s, "a", "same").set(&s, "b", "same")).await;
        assert!(Some(made) > last, "{made:?} after {last:?}");
        assert_eq!(entry(kv, &s, b"a").await.unwrap().version, made);
        let changed = commit(kv, Batch::new().set(&s, "a", "same")).await;
        assert!(changed > made, "writing the same value is a write");
        assert_eq!(entry(kv, &s, b"b").await.unwrap().version, made, "another key's write changes nothing here");
        last = Some(commit(kv, Batch::new().delete(&s, "a").delete(&s, "b")).await);
    }
}

async fn batches_happen_whole_or_not_at_all(kv: &dyn Kv) {
    let (s, t) = (space(), Space::new(None, "other"));
    let seen =
        commit(kv, Batch::new().set(&s, "a", "1").set(&s, "text", "no number").set(&t, "n", "9223372036854775807"))
            .await;
    let writes = || Batch::new().set(&s, "a", "2").set(&t, "new", "x").delete(&s, "text").add(&s, "sum", 5);
    let refused = [
        writes().expect(&s, "a", None),
        writes().expect(&s, "none", Some(seen)),
        writes().expect(&t, "n", Some(Version(seen.0 + 1))),
        writes().set(&s, "word", "x").add(&s, "word", 1),
        writes().add(&t, "n", 1),
        writes().within(&t, Size { bytes: 23, keys: 9 }),
        writes().within(&t, Size { bytes: 99, keys: 1 }),
    ];
    for (case, batch) in refused.into_iter().enumerate() {
        let why = kv.commit(batch).await.expect_err("it is refused");
        let expected = match why {
            Refused::Conflict { .. } => case < 3,
            Refused::NotANumber { step } => case == 3 && step == 5,
            Refused::Overflow { step } => case == 4 && step == 4,
            Refused::TooManyBytes { most } => case == 5 && most == 23,
            Refused::TooManyKeys { most } => case == 6 && most == 1,
            Refused::Failed(_) => false,
        };
        assert!(expected, "case {case}: {why:?}");
        assert_eq!(value(kv, &s, b"a").await.unwrap(), "1", "case {case} wrote something");
        assert_eq!((size(kv, &s).await.keys, size(kv, &t).await.keys), (2, 1), "case {case} wrote something");
    }
    let done = kv.commit(writes().expect(&s, "a", Some(seen)).expect(&t, "new", None).add(&s, "sum", 1)).await.unwrap();
    assert_eq!(done.sums, [5, 6], "a batch reads its own writes");
    assert_eq!(value(kv, &s, b"a").await.unwrap(), "2");
    assert_eq!(value(kv, &s, b"sum").await.unwrap(), "6");
    assert_eq!((size(kv, &s).await.keys, size(kv, &t).await.keys), (2, 2));
    let why = kv.commit(writes().expect(&s, "a", Some(seen))).await.expect_err("what was seen is old");
    assert!(matches!(why, Refused::Conflict { step: 4 }), "{why:?}");
    assert!(kv.commit(Batch::new()).await.is_ok(), "a batch of nothing is written");
}

async fn bounds_hold_to_the_byte(kv: &dyn Kv) {
    let s = space();
    let most = Size { bytes: 10, keys: 2 };
    let set = |key: &'static str, value: &'static str| kv.commit(Batch::new().set(&s, key, value).within(&s, most));
    assert!(set("a", "123456789").await.is_ok(), "ten bytes fit");
    assert!(matches!(set("a", "1234567890").await, Err(Refused::TooManyBytes { most: 10 })));
    assert!(matches!(set("b", "").await, Err(Refused::TooManyBytes { most: 10 })), "a key takes room as well");
    assert!(set("a", "12345678").await.is_ok(), "a shorter value takes its place");
    assert!(set("b", "").await.is_ok(), "and what it gave back is free");
    assert_eq!(size(kv, &s).await, most);
    let twelve = kv.commit(Batch::new().set(&s, "c", "12").within(&s, Size { bytes: 99, keys: 2 })).await;
    assert!(matches!(twelve, Err(Refused::TooManyKeys { most: 2 })));
    commit(kv, Batch::new().set(&s, "c", "beyond")).await;
    assert!(kv.commit(Batch::new().delete(&s, "b").within(&s, most)).await.is_ok(), "what is too full may shrink");
}

async fn lists_are_whole_and_in_order(kv: &dyn Kv) {
    let s = space();
    let all: Vec<Bytes> = (0..257).map(|n| Bytes::from(format!("{:03}", n * 7 % 257))).collect();
    for some in all.chunks(50) {
        commit(kv, some.iter().fold(Batch::new(), |batch, key| batch.set(&s, key.clone(), ""))).await;
    }
    let mut sorted = all.clone();
    sorted.sort();
    for limit in [1, 2, 100, 256, 257, 258] {
        assert_eq!(keys(kv, &s, b"", limit).await, sorted, "by pages of {limit}");
        let some: Vec<_> = sorted.iter().filter(|key| key.starts_with(b"1")).cloned().collect();
        assert_eq!(keys(kv, &s, b"1", limit).await, some, "of a prefix, by pages of {limit}");
    }
    let list = async |prefix: &[u8], after: &[u8]| kv.list(&s, prefix, Some(after), 2).await.expect("it can be listed");
    assert_eq!(list(b"", b"0015").await, ["002", "003"], "after a key that is not there");
    assert_eq!(list(b"2", b"0").await, ["200", "201"], "after a key before the prefix");
    assert_eq!(list(b"1", b"2").await, [""; 0], "after the prefix");
    assert_eq!(list(b"", b"256").await, [""; 0], "after the last");
}

/// Keys that are there all the time are listed once, whatever else is written meanwhile.
async fn lists_are_stable_under_writes(store: &Store) {
    let s = space();
    let lasting: Vec<Bytes> = (0..60).map(|n| Bytes::from(format!("{n:03}"))).collect();
    commit(store.kv(), lasting.iter().fold(Batch::new(), |batch, key| batch.set(&s, key.clone(), ""))).await;
    let (writer, space) = (store.clone(), s.clone());
    let writes = tokio::spawn(async move {
        for n in (0..60).cycle() {
            let (come, go) = (format!("{n:03}+"), format!("{:03}+", (n + 30) % 60));
            commit(writer.kv(), Batch::new().set(&space, come, "").delete(&space, go)).await;
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..20 {
        let found = keys(store.kv(), &s, b"", 7).await;
        assert!(found.is_sorted_by(|a, b| a < b), "twice, or out of order: {found:?}");
        let found: Vec<_> = found.into_iter().filter(|key| key.len() == 3).collect();
        assert_eq!(found, lasting);
    }
    writes.abort();
    assert!(writes.await.is_err_and(|error| error.is_cancelled()), "the writer failed");
}

const TASKS: i64 = 8;
const TIMES: i64 = 25;

/// Runs the same work in many tasks at once, and gives what each came to.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(work: impl Fn() -> F) -> Vec<T> {
    (0..TASKS).map(|_| work()).collect::<JoinSet<T>>().join_all().await
}

async fn increments_add_up(store: &Store) {
    let sums = at_once(|| {
        let store = store.clone();
        async move {
            let mut sums = Vec::new();
            for _ in 0..TIMES {
                sums.extend(store.kv().commit(Batch::new().add(&space(), "n", 3)).await.expect("it is added").sums);
            }
            sums
        }
    });
    let mut sums = sums.await.concat();
    sums.sort_unstable();
    assert_eq!(sums, (1..=TASKS * TIMES).map(|n| 3 * n).collect::<Vec<_>>(), "each sum is somebody's");
    assert_eq!(value(store.kv(), &space(), b"n").await.unwrap(), (3 * TASKS * TIMES).to_string());
}

async fn swaps_lose_nothing(store: &Store) {
    let lost = at_once(|| {
        let store = store.clone();
        async move {
            let (s, mut lost) = (space(), 0);
            for _ in 0..TIMES {
                loop {
                    let now = entry(store.kv(), &s, b"list").await;
                    let longer = [now.as_ref().map_or(&b""[..], |entry| &entry.value), b"x"].concat();
                    let batch = Batch::new().expect(&s, "list", now.map(|entry| entry.version)).set(&s, "list", longer);
                    match store.kv().commit(batch).await {
                        Ok(_) => break,
                        Err(Refused::Conflict { step: 0 }) => lost += 1,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
            lost
        }
    });
    lost.await;
    let list = value(store.kv(), &space(), b"list").await.unwrap();
    assert_eq!(list.len() as i64, TASKS * TIMES, "a swap overwrote another");
}

async fn bounds_hold_under_contention(store: &Store) {
    let most = Size { bytes: 400, keys: 50 };
    let written = at_once(|| {
        let store = store.clone();
        async move {
            let mut written = 0;
            for n in 0..TIMES {
                // Keys of three bytes that nobody else has, and five bytes of value: 50 of them fit.
                let key = format!("{n:02}{}", tokio::task::id());
                let batch =
                    Batch::new().set(&space(), key.clone(), vec![0; 8 - key.len().min(8)]).within(&space(), most);
                match store.kv().commit(batch).await {
                    Ok(_) => written += 1,
                    Err(Refused::TooManyKeys { most: 50 } | Refused::TooManyBytes { most: 400 }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            written
        }
    });
    let written: u64 = written.await.into_iter().sum();
    let size = size(store.kv(), &space()).await;
    assert!(size.bytes <= most.bytes && size.keys <= most.keys, "{size:?}");
    assert_eq!(written, size.keys, "what was acknowledged is there");
    assert_eq!(keys(store.kv(), &space(), b"", 100).await.len() as u64, size.keys);
}

/// Two keys that are always written together are never seen apart.
async fn batches_are_seen_whole(store: &Store) {
    let writer = store.clone();
    let writes = tokio::spawn(async move {
        for n in 0..200 {
            commit(
                writer.kv(),
                Batch::new().set(&space(), "left", n.to_string()).set(&space(), "right", n.to_string()),
            )
            .await;
        }
    });
    while !writes.is_finished() {
        let both = store.kv().get_many(&space(), &["left".into(), "right".into()], 100).await.expect("it can be read");
        assert_eq!(both[0], both[1], "half of a batch");
        tokio::task::yield_now().await;
    }
    writes.await.expect("all were written");
}

/// A batch does what the same steps do to a map.
async fn random_batches_do_what_a_map_does(kv: &dyn Kv) {
    let mut random = StdRng::seed_from_u64(0x150_90d);
    let spaces = [space(), Space::new(None, "state")];
    let mut model: BTreeMap<(usize, String), (String, Version)> = BTreeMap::new();
    for round in 0..300 {
        let (mut batch, mut after, mut stale) = (Batch::new(), model.clone(), false);
        let mut written = Vec::new();
        for _ in 0..random.random_range(1..6) {
            let place = (random.random_range(0..2), format!("k{}", random.random_range(0..8)));
            let (s, key) = (&spaces[place.0], place.1.clone());
            match random.random_range(0..4) {
                0 => {
                    let known = model.get(&place).map(|(_, version)| *version);
                    let expected = if random.random_range(0..8) == 0 { Some(Version(u64::MAX)) } else { known };
                    stale |= expected != known;
                    batch = batch.expect(s, key, expected);
                    continue;
                }
                1 => {
                    batch = batch.delete(s, key);
                    after.remove(&place);
                }
                2 => {
                    let number = random.random_range(-9..9);
                    let sum =
                        after.get(&place).map_or(0, |(value, _)| value.parse::<i64>().unwrap_or_default()) + number;
                    batch = batch.add(s, key, number);
                    after.insert(place.clone(), (sum.to_string(), Version(0)));
                }
                _ => {
                    let value = random.random_range(0..1_000_000).to_string();
                    batch = batch.set(s, key, value.clone());
                    after.insert(place.clone(), (value, Version(0)));
                }
            }
            written.push(place);
        }
        match kv.commit(batch.clone()).await {
            Ok(done) if !stale => {
                for place in written {
                    if let Some((_, version)) = after.get_mut(&place) {
                        *version = done.version;
                    }
                }
                model = after;
            }
            Err(Refused::Conflict { .. }) if stale => {}
            other => panic!("round {round}: {other:?} for {batch:?}"),
        }
        for (at, s) in spaces.iter().enumerate() {
            let expected = model.iter().filter(|((in_space, _), _)| *in_space == at);
            let mut bytes = 0;
            let found = keys(kv, s, b"", 3).await;
            assert!(
                expected.clone().map(|((_, key), _)| key.as_bytes()).eq(found.iter().map(|key| &key[..])),
                "round {round}"
            );
            for ((_, key), (text, version)) in expected {
                let found = entry(kv, s, key.as_bytes()).await.expect("it is there");
                assert_eq!((&found.value[..], found.version), (text.as_bytes(), *version), "round {round}: {key}");
                bytes += (key.len() + text.len()) as u64;
            }
            assert_eq!(size(kv, s).await, Size { bytes, keys: found.len() as u64 }, "round {round}");
        }
    }
}
