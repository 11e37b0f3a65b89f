//! What a node has promised and not handed on yet: of every backend.

use crate::storage::Storage;

pub(super) async fn an_outbox_is_one_nodes_and_keeps_its_order(storage: &dyn Storage) {
    let row = |order: u64| (order, order.to_le_bytes().to_vec());
    storage.outbox_write("eu-0", vec![row(9), row(u64::MAX), row(2)], vec![]).await.unwrap();
    storage.outbox_write("eu-1", vec![row(2)], vec![]).await.unwrap();
    storage.outbox_write("eu-0", vec![(9, vec![])], vec![2, 77]).await.unwrap();
    assert_eq!(storage.outbox("eu-0").await.unwrap(), [(9, vec![]), row(u64::MAX)]);
    assert_eq!(storage.outbox("eu-1").await.unwrap(), [row(2)]);
    assert_eq!(storage.outbox("us-0").await.unwrap(), []);
}

pub(super) async fn an_outbox_is_moved_over_what_was_moved_before(storage: &dyn Storage) {
    let row = |order: u64, line: &[u8]| (order, line.to_vec());
    storage.outbox_write("eu-0*", vec![row(3, b"old"), row(7, b"old")], vec![]).await.unwrap();
    storage.outbox_write("eu-0", vec![row(7, b"new"), row(8, b"new")], vec![]).await.unwrap();
    storage.outbox_write("eu-1", vec![row(7, b"another's")], vec![]).await.unwrap();
    storage.outbox_move("eu-0", "eu-0*").await.unwrap();
    assert_eq!(storage.outbox("eu-0").await.unwrap(), []);
    let moved = [row(3, b"old"), row(7, b"new"), row(8, b"new")];
    assert_eq!(storage.outbox("eu-0*").await.unwrap(), moved);
    assert_eq!(storage.outbox("eu-1").await.unwrap(), [row(7, b"another's")]);
    storage.outbox_move("eu-0", "eu-0*").await.unwrap();
    storage.outbox_move("eu-0*", "eu-0*").await.unwrap();
    assert_eq!(storage.outbox("eu-0*").await.unwrap(), moved);
}
