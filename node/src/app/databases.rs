//! The region's databases, for the operator: what is where, and moving it.

use super::Node;
use crate::admin::{DatabaseInfo, MovesInfo, Rebalance, Refusal, StorageInfo};
use crate::storage::partitioned::NotMoved;

/// Where everything is, and how far a move of it has come.
pub(super) fn show(node: &Node) -> StorageInfo {
    let Some(partitions) = node.storage.partitions() else {
        let name = node.config.storage.database.to_string();
        let only = DatabaseInfo { name, slots: 256, ..DatabaseInfo::default() };
        return StorageInfo { databases: vec![only], moves: None };
    };
    let in_use = &node.config.storage;
    let databases = partitions.status().into_iter().map(|part| DatabaseInfo {
        number: part.number,
        name: address(in_use, part.number).unwrap_or(part.name),
        slots: part.slots,
        behind: part.behind,
        away: part.away,
    });
    let moves = partitions.moves();
    let moves = MovesInfo {
        running: moves.is_running,
        moved: moves.moved,
        left: moves.left,
        rows: moves.rows,
        bytes: moves.bytes,
        cleaning: moves.is_cleaning,
        seconds: moves.seconds,
        trouble: moves.trouble,
    };
    StorageInfo { databases: databases.collect(), moves: Some(moves) }
}

/// Where the database of that number is reached now: the name that it was opened by may be an older address.
fn address(storage: &config::Storage, number: u8) -> Option<String> {
    match number.checked_sub(1) {
        None => Some(storage.database.to_string()),
        Some(at) => storage.partitions.get(usize::from(at)).map(ToString::to_string),
    }
}

/// Spreads accounts evenly over the databases there are.
pub(super) async fn rebalance(node: &Node, asked: Rebalance) -> Result<StorageInfo, Refusal> {
    let partitions = node.storage.partitions().ok_or_else(|| {
        Refusal::conflict(
            "there is one database: name more in storage.partitions, and start the node again",
        )
    })?;
    match partitions.rebalance(&asked.without).await {
        Ok(_) => Ok(show(node)),
        Err(error @ NotMoved::Elsewhere) => {
            let scribe = node.storage.scribe().await.ok().flatten();
            let name = scribe.map(|scribe| format!(", {}", scribe.node)).unwrap_or_default();
            Err(Refusal::conflict(format!("{error}{name}")))
        }
        Err(error @ NotMoved::Unknown(_)) => Err(Refusal::invalid(error.to_string())),
        Err(error) => Err(Refusal::unavailable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use config::Database;

    use super::*;

    #[test]
    fn each_database_is_shown_under_the_address_in_force() {
        let at = |url: &str| Database::parse(url).expect("a database");
        let storage = config::Storage {
            partitions: vec![at("postgres://new/one"), at("postgres://new/two")],
            ..config::Storage::of(at("postgres://new/main"))
        };
        let shown: Vec<_> = (0..4).filter_map(|number| address(&storage, number)).collect();
        assert_eq!(shown, ["postgres://new/main", "postgres://new/one", "postgres://new/two"]);
    }
}
