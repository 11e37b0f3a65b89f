//! What every backend of the route log must do. A backend is finished when [`run`] passes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{RouteLog, Tail};

fn entries(numbers: std::ops::RangeInclusive<u64>) -> Vec<Bytes> {
    numbers.map(|n| Bytes::from(format!("entry {n}"))).collect()
}

/// `make` gives an empty log that keeps at least the given number of entries, and not many times more.
///
/// # Panics
/// When the log does not do what it must.
pub async fn run<L: RouteLog>(make: impl Fn(usize) -> Arc<L>) {
    numbers_are_dense_and_begin_at_one(&*make(100)).await;
    a_batch_is_no_longer_than_asked(&*make(100)).await;
    what_was_trimmed_is_never_skipped_silently(&*make(8)).await;
    a_waiter_is_woken_by_the_next_entry(make(100)).await;
    writers_and_a_reader_agree_on_one_order(make(10_000)).await;
}

async fn numbers_are_dense_and_begin_at_one(log: &impl RouteLog) {
    assert_eq!(log.head().await.unwrap(), 0);
    assert_eq!(log.append(entries(1..=3)).await.unwrap(), 3);
    assert_eq!(log.append(vec![]).await.unwrap(), 3);
    assert_eq!(log.append(entries(4..=4)).await.unwrap(), 4);
    assert_eq!(log.head().await.unwrap(), 4);
    let all = Tail::Batch { first: 1, entries: entries(1..=4) };
    assert_eq!(log.tail(0, 100).await.unwrap(), all);
    assert_eq!(log.tail(0, 100).await.unwrap(), all, "reading takes nothing away");
    let rest = Tail::Batch { first: 5, entries: vec![] };
    assert_eq!(log.tail(4, 100).await.unwrap(), rest);
}

async fn a_batch_is_no_longer_than_asked(log: &impl RouteLog) {
    log.append(entries(1..=10)).await.unwrap();
    let batch = Tail::Batch { first: 4, entries: entries(4..=6) };
    assert_eq!(log.tail(3, 3).await.unwrap(), batch);
}

async fn what_was_trimmed_is_never_skipped_silently(log: &impl RouteLog) {
    for n in 1..=1000 {
        log.append(entries(n..=n)).await.unwrap();
    }
    assert_eq!(log.tail(0, 10).await.unwrap(), Tail::Trimmed { head: 1000 });
    let last = Tail::Batch { first: 993, entries: entries(993..=1000) };
    assert_eq!(log.tail(992, 100).await.unwrap(), last);
    // A cursor of a former life of the log.
    assert_eq!(log.tail(5000, 10).await.unwrap(), Tail::Trimmed { head: 1000 });
}

async fn a_waiter_is_woken_by_the_next_entry(log: Arc<impl RouteLog>) {
    log.append(entries(1..=2)).await.unwrap();
    log.wait_past(1).await.unwrap();
    let waiter = tokio::spawn({
        let log = log.clone();
        async move { log.wait_past(2).await.unwrap() }
    });
    log.append(entries(3..=3)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiter).await.expect("woken").unwrap();
}

async fn writers_and_a_reader_agree_on_one_order(log: Arc<impl RouteLog>) {
    let mut writers = Vec::new();
    for writer in 0..4 {
        let log = log.clone();
        writers.push(tokio::spawn(async move {
            for n in 0..100 {
                log.append(vec![Bytes::from(format!("{writer} {n}"))]).await.unwrap();
            }
        }));
    }
    let mut seen = Vec::new();
    while seen.len() < 400 {
        log.wait_past(seen.len() as u64).await.unwrap();
        match log.tail(seen.len() as u64, 7).await.unwrap() {
            Tail::Batch { first, entries } => {
                assert_eq!(first, seen.len() as u64 + 1);
                seen.extend(entries);
            }
            Tail::Trimmed { .. } => panic!("nothing was trimmed"),
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for writer in 0..4 {
        let prefix = format!("{writer} ");
        let own: Vec<&Bytes> =
            seen.iter().filter(|entry| entry.starts_with(prefix.as_bytes())).collect();
        let expected: Vec<Bytes> = (0..100).map(|n| Bytes::from(format!("{writer} {n}"))).collect();
        assert!(own.into_iter().eq(expected.iter()), "each writer's entries keep their order");
    }
}
