//! What a seed stands for: how many nodes and people, how good the network is, what they do and what befalls them. A profile leaves out whole
//! kinds of faults, so that a promise which does not hold under one kind does not hide the others.

use crate::world::chance::Chance;

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// People come and go in order; nothing breaks.
    Calm,
    /// People move between regions, also without a word, and resume.
    Moves,
    /// Lines between regions break, one way or both, one by one or all.
    Cuts,
    /// Nodes are killed, with and without their machine, or told to stop, and start again.
    Deaths,
    /// Nodes sleep and wake; clocks are wrong and jump; disks are slow.
    Pauses,
    /// All of it, with small limits at times.
    Everything,
    /// Regions are away for so long that they are declared down and their homes pass to others; then they return. Played when it is named:
    /// what a home has not shipped when it falls is not promised (docs/consistency.md, *Data of a dead region*).
    Falls,
    /// Regions of several nodes, which share a database; with everything that befalls. Played when it is named.
    Nodes,
}

/// Those that are always played: seed `n` plays profile `n % 6`.
pub const PROFILES: [Profile; 6] = [
    Profile::Calm,
    Profile::Moves,
    Profile::Cuts,
    Profile::Deaths,
    Profile::Pauses,
    Profile::Everything,
];

/// Seeds from here on play [`Profile::Falls`].
pub const FALLS_FROM: u64 = 1_000_000;
/// And from here on [`Profile::Nodes`].
pub const NODES_FROM: u64 = 2_000_000;

impl Profile {
    /// Of a seed.
    pub fn of(seed: u64) -> Self {
        if seed >= NODES_FROM {
            return Profile::Nodes;
        }
        if seed >= FALLS_FROM {
            return Profile::Falls;
        }
        PROFILES[(seed % PROFILES.len() as u64) as usize]
    }

    /// Its name in commands and reports.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Calm => "calm",
            Profile::Moves => "moves",
            Profile::Cuts => "cuts",
            Profile::Deaths => "deaths",
            Profile::Pauses => "pauses",
            Profile::Everything => "everything",
            Profile::Falls => "falls",
            Profile::Nodes => "nodes",
        }
    }
}

/// What somebody does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Writes to somebody, a few times.
    Message,
    /// Writes to one device of somebody.
    Direct,
    /// Asks a device of somebody whether it is there (XEP-0199): what cannot be stored for later.
    Ping,
    /// Changes presence.
    Presence,
    /// Names a contact.
    Roster,
    /// Asks to see somebody's presence, or lets somebody see one's own no longer.
    Subscribe,
    /// Closes the stream and comes back at once, elsewhere.
    Move,
    /// Closes the stream and stays away for a while.
    Leave,
    /// The connection is reset; resumes, or binds elsewhere.
    Reset,
    /// The connection dies without the server knowing; binds elsewhere with the same resource, or resumes.
    Vanish,
}

/// What befalls the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes from one host to another.
    CutOneWay,
    /// Nothing passes between two.
    Cut,
    /// One host is alone.
    Isolate,
    /// All lines are stopped one by one, and restored in another order.
    Swizzle,
    /// The connections between two hosts are reset.
    ResetLinks,
    /// Losses and jitter between two.
    BadLine,
    /// A process is killed and started again.
    Kill,
    /// The same, with its machine: nobody is told.
    PowerLoss,
    /// A process is told to stop, drains, and is started again.
    Stop,
    /// A process sleeps and wakes.
    Pause,
    /// A wall clock jumps.
    Clock,
    /// A disk becomes slow, then fast again.
    SlowDisk,
    /// An operator moves a home to another region.
    MoveHome,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The kind of trouble.
    pub profile: Profile,
    /// Nodes, each by its region and its number there, in the order of their names.
    pub nodes: Vec<(&'static str, u16)>,
    /// People.
    pub users: usize,
    /// The most devices of one of them.
    pub devices_max: usize,
    /// The time between regions: shortest and longest.
    pub delays_ms: (u64, u64),
    /// Extra time, at most.
    pub jitter_ms: u64,
    /// The longest a disk takes, on either side of a write.
    pub disk_ms: u64,
    /// How long there is trouble.
    pub trouble_ms: u64,
    /// Between two deeds of one device, on average.
    pub pace_ms: u64,
    /// Between two faults, on average; `None`: there are none.
    pub faults_ms: Option<u64>,
    /// What people do, by weight.
    pub deeds: Vec<(u64, Deed)>,
    /// What befalls, by weight.
    pub faults: Vec<(u64, Fault)>,
    /// Lines of configuration that make limits small.
    pub limits: &'static str,
    /// What is acknowledged is in two regions (`geo.durability`).
    pub two_regions: bool,
    /// What is said is archived.
    pub archive: bool,
    /// People write to other domains too.
    pub abroad: bool,
}

impl Plan {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Self {
        let profile = Profile::of(seed);
        let mut chance = Chance::part(seed, "plan", 0);
        let far = chance.percent(40);
        // Few people who say much and never stay: what is on the way meets what moves.
        let busy = chance.percent(if profile == Profile::Moves { 60 } else { 25 });
        let mut deeds = vec![
            (45, Deed::Message),
            (6, Deed::Direct),
            (10, Deed::Ping),
            (10, Deed::Presence),
            (10, Deed::Roster),
            (3, Deed::Subscribe),
            (5, Deed::Leave),
        ];
        if profile == Profile::Calm {
            deeds.push((8, Deed::Leave));
        } else {
            let often = if busy { 8 } else { chance.between(1, 6) };
            deeds.extend([(2 * often, Deed::Move), (often, Deed::Reset), (often, Deed::Vanish)]);
        }
        if busy && profile == Profile::Moves {
            deeds = vec![
                (50, Deed::Message),
                (15, Deed::Move),
                (3, Deed::Reset),
                (3, Deed::Vanish),
                (25, Deed::Presence),
            ];
        }
        let lines = [
            (4, Fault::CutOneWay),
            (4, Fault::Cut),
            (3, Fault::Isolate),
            (2, Fault::Swizzle),
            (4, Fault::ResetLinks),
            (2, Fault::BadLine),
        ];
        let deaths = [(4, Fault::Kill), (2, Fault::PowerLoss), (2, Fault::Stop)];
        let sleeps = [(4, Fault::Pause), (3, Fault::Clock), (3, Fault::SlowDisk)];
        // Whatever else befalls.
        let moves = [(4, Fault::MoveHome)];
        let faults = match profile {
            Profile::Calm | Profile::Moves => Vec::new(),
            Profile::Cuts => [&lines[..], &moves].concat(),
            Profile::Deaths => [&deaths[..], &moves].concat(),
            Profile::Pauses => [&sleeps[..], &moves].concat(),
            Profile::Everything | Profile::Nodes => [&lines[..], &deaths, &sleeps, &moves].concat(),
            Profile::Falls => vec![(4, Fault::Isolate), (2, Fault::Kill), (1, Fault::PowerLoss)],
        };
        let small = profile == Profile::Everything && chance.percent(30);
        let two_regions = match profile {
            Profile::Calm | Profile::Moves | Profile::Nodes => false,
            Profile::Falls => seed % 2 == 1,
            _ => chance.percent(15),
        };
        Self {
            seed,
            profile,
            nodes: nodes(profile, 3 + chance.weighted(&[(6, 0), (3, 1), (1, 2)]), seed),
            users: if busy { chance.between(2, 3) } else { chance.between(3, 5) } as usize,
            devices_max: chance.between(1, if busy { 2 } else { 3 }) as usize,
            delays_ms: if far { (60, 180) } else { (20, 60) },
            jitter_ms: chance.between(0, 30),
            disk_ms: chance.between(1, 12),
            trouble_ms: if profile == Profile::Falls {
                chance.between(40_000, 60_000)
            } else if busy {
                chance.between(8_000, 15_000)
            } else {
                chance.between(15_000, 30_000)
            },
            pace_ms: if busy { chance.between(120, 300) } else { chance.between(300, 1_200) },
            faults_ms: match profile {
                Profile::Calm | Profile::Moves => None,
                Profile::Falls => Some(chance.between(15_000, 25_000)),
                _ => Some(chance.between(1_500, 6_000)),
            },
            deeds,
            faults,
            two_regions,
            archive: Chance::part(seed, "archive", 0).percent(40),
            abroad: Chance::part(seed, "abroad", 0).percent(30),
            limits: if small {
                "stanza_bytes_max = '16KiB'\nmailbox_bytes_max = '64KiB'\nparked_stanzas_per_address_max = 20\nsm_queue_max = 250\noffline_messages_max = 200"
            } else {
                ""
            },
        }
    }

    /// The configuration of one host.
    pub fn config(&self, host: usize) -> String {
        let (region, index) = self.nodes[host];
        let mut text = format!(
            "[node]
region = '{region}'
index = {index}
data_dir = 'data'
[domains]
global = 'chat.example'
regional = '{region}.chat.example'
[c2s]
listen = ['127.0.0.1:5222']
listen_tls = []
certificate = 'unused'
key = 'unused'
allow_plain_without_tls = true
[metadata]
cluster = 'sim'
raft_id = {}
[geo]
dead_after = '4s'
down_after = '{down_after}'
node_down_after = '6s'
durability = '{durability}'
hold = '2m'
[link]
heartbeat = '1s'
silent_after = '4s'
handshake_deadline = '5s'
redial_max = '2s'
[archive]
enabled = {archive}
[limits]
sm_timeout = '15s'
{}
",
            host + 1,
            self.limits,
            archive = self.archive,
            durability = if self.two_regions { "two-regions" } else { "one-region" },
            down_after = if self.profile == Profile::Falls { "6s" } else { "1h" },
        );
        let peers = self.nodes.iter().enumerate().filter(|(other, _)| *other != host);
        for (other, (name, number)) in peers {
            text += &format!(
                "[[peers]]\nregion = '{name}'\nnode = {number}\naddress = '{name}{number}.invalid:5269'\nfingerprint = '{}'\nraft_id = {}\nvoter = true\n",
                crate::world::host::fingerprint(other),
                other + 1
            );
        }
        text
    }
}

/// So many nodes: one a region, or spread over one, two or three regions.
fn nodes(profile: Profile, count: usize, seed: u64) -> Vec<(&'static str, u16)> {
    const REGIONS: [&str; 5] = ["ap", "eu", "ru", "sa", "us"];
    if profile != Profile::Nodes {
        return REGIONS[..count].iter().map(|region| (*region, 0)).collect();
    }
    let each: &[u16] = match seed % 4 {
        0 => &[3],
        1 => &[2, 2],
        2 => &[3, 1],
        _ => &[2, 1, 2],
    };
    let of = |(region, count): (&&'static str, &u16)| {
        let region = *region;
        (0..*count).map(move |number| (region, number))
    };
    REGIONS.iter().zip(each).flat_map(of).collect()
}
