//! Who of several serves whom, so that every node says the same and one that comes or goes moves its own share alone (rendezvous, or highest random
//! weight). Pure. Called by `gateway` and by the node's components.

/// A number that is the same on every node: FNV-1a of all parts, then mixed (the finaliser of SplitMix64), for FNV's high bits hardly depend on the last
/// bytes. The greatest of several wins.
pub fn weight(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// The one of these that serves `whom`. Ties cannot be: names differ.
pub fn chosen<'a>(whom: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    among.max_by_key(|name| (weight(&[whom, name]), *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_goes_moves_its_own_share_alone() {
        let nodes = ["eu-0", "eu-1", "eu-2"];
        let domains: Vec<String> = (0..300).map(|n| format!("d{n}.example")).collect();
        let at = |nodes: &[&'static str]| -> Vec<&'static str> {
            let all = domains.iter().map(|domain| chosen(domain, nodes.iter().copied()));
            all.map(|node| node.expect("some")).collect()
        };
        let (three, two) = (at(&nodes), at(&nodes[..2]));
        for name in nodes {
            let share = three.iter().filter(|node| **node == name).count();
            assert!((70..130).contains(&share), "{name} has {share} of 300");
        }
        assert!(three.iter().zip(&two).all(|(before, after)| *before == "eu-2" || before == after));
    }
}
