//! What the driver holds while others want it.

use std::sync::mpsc;

use super::*;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::queue::tests::{bind, jid};
use crate::registry::script::Beaten;

/// How long two threads may take that do not wait for each other.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_operator_may_ask_while_another_redis_is_configured() {
    let config = Redis::none("pangaea:eu");
    let registry = Arc::new(Registry::new(&config, &Metrics::new("eu", "eu-0")));
    registry.queue.lock().set_max(200);
    let over = Arc::new(AtomicBool::new(false));
    let (begun, heard) = mpsc::channel();
    let asked = begun.clone();
    let (ours, stop) = (registry.clone(), over.clone());
    std::thread::spawn(move || {
        for _ in 0..500 {
            for n in 0..100 {
                ours.queue.lock().note(&bind(&format!("a{n}@x/r"), 1), 0);
            }
            ours.begin(&config);
        }
        stop.store(true, Ordering::Relaxed);
        begun.send("begun")
    });
    std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            registry.info(0);
        }
        asked.send("asked")
    });
    for _ in 0..2 {
        heard.recv_timeout(SOON).expect("they wait for each other");
    }
}

/// A node whose rows are looked at only while its sessions can go on.
struct Free<'a>(&'a Mutex<Queue>);

impl Site for Free<'_> {
    fn all(&self) -> Vec<FullJid> {
        let mut queue = self.0.try_lock().expect("sessions wait");
        queue.note(&bind("c@x/r", 9), 0);
        vec![jid("a@x/r"), jid("b@x/r")]
    }
    fn row(&self, _: &FullJid) -> Option<(Hlc, Shows)> {
        Some((Hlc(1), Shows { priority: 0, available: false, hidden: false }))
    }
    fn record(&self) -> String {
        String::new()
    }
    fn map_version(&self) -> u64 {
        0
    }
    fn map(&self) -> String {
        String::new()
    }
}

#[test]
fn sessions_leave_their_notes_while_all_rows_are_looked_at_after_an_overflow() {
    let queue = Mutex::new(Queue::new(2));
    let site = Free(&queue);
    let me = Life { node: "eu-0".into(), incarnation: 7 };
    let mut machine = Machine::new(me, &Redis::none("pangaea:eu"), Counted::default());
    assert_eq!(next(&mut machine, &queue, 0, &site), Step::Connect);
    machine.connected(0);
    let Step::Beat(sent) = next(&mut machine, &queue, 0, &site) else { panic!("no beat") };
    machine.beaten(0, &sent, &Beaten { life: "first".into(), ..Beaten::default() }, &site);
    let written = |machine: &mut Machine, now| {
        let step = next(machine, &queue, now, &site);
        let Step::Write(batch) = step else { panic!("{step:?}") };
        machine.written(now);
        let changes = batch.changes.iter();
        (batch.writing, changes.map(|(full, _)| full.to_string()).collect::<Vec<_>>())
    };
    // What was noted while all were looked at at the start.
    assert_eq!(written(&mut machine, 900), (1, vec!["c@x/r".to_owned()]));
    for n in 0..3 {
        queue.lock().note(&bind(&format!("d{n}@x/r"), 1), 0);
    }
    // Those that overflowed are forgotten; what is noted afterwards is not, and waits in its order.
    assert_eq!(written(&mut machine, 910), (2, vec!["c@x/r".to_owned()]));
    assert_eq!(written(&mut machine, 920), (2, vec!["a@x/r".to_owned(), "b@x/r".to_owned()]));
}
