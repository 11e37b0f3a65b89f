//! Session: the mailbox, where others put what a session is to send.
//!
//! Pushed to by the router, features and links of this node (never waiting: a slow reader must not hold a sender up); drained by
//! the one session task that owns it. Knows nothing of stanzas: it is generic over [`Weight`].
//!
//! A mailbox is bounded in items and bytes. What happens when it is full depends on the class, and nothing is lost silently:
//! | class | when it does not fit |
//! |---|---|
//! | message, iq | handed back as [`Refused::Full`]: the router stores or bounces it |
//! | presence | handed back from three quarters of the bounds on, so that a flood of presence leaves room for messages; it may be dropped, for the seat has its client told anew how things are |
//! | control, order | always fits: it is made by ourselves, about once per event in this session's life, and must not wait behind what it is to end |
//!
//! Deliberately absent: fairness between senders, and waiting for room.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// What kind of thing an item is, which decides what happens when the mailbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A message: stored or bounced by whoever sent it on.
    Message,
    /// Presence: may be left out, and is counted then.
    Presence,
    /// An iq: bounced by whoever sent it on.
    Iq,
    /// From ourselves, about what else is here: it keeps its place. Always fits.
    Control,
    /// From ourselves: close, hand over. Always fits, and is heard also by an owner that can take nothing else now.
    Order,
}

/// What a mailbox must know of its items.
pub trait Weight {
    /// The memory that it keeps alive, in bytes, about.
    fn bytes(&self) -> usize;
    /// See [`Class`].
    fn class(&self) -> Class;
}

/// The bounds of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// How many items that are not control.
    pub items_max: u32,
    /// Their weight together. One item alone is taken whatever it weighs.
    pub bytes_max: u32,
}

impl Default for MailboxLimits {
    fn default() -> Self {
        Self { items_max: 2_000, bytes_max: 4 * 1024 * 1024 }
    }
}

/// How full it is after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Items, control and orders among them.
    pub items: usize,
    /// Weight of those that are neither.
    pub bytes: usize,
}

/// Why an item was not taken; it comes back to whoever brought it.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// It does not fit.
    Full(T),
    /// The session has gone.
    Closed(T),
}

impl<T> Refused<T> {
    /// The item.
    pub fn into_item(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

/// See the top of the file. About 80 bytes, and no heap memory while it is empty. Order is that of the pushes.
pub struct Mailbox<T> {
    limits: MailboxLimits,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    // A vector, for it is only ever pushed to and then taken as a whole.
    items: Vec<T>,
    /// Set when the owner found nothing and went to sleep; taken by whoever ends that.
    waker: Option<Waker>,
    /// The owner waits for orders alone.
    orders_only: bool,
    /// Orders among the items.
    orders: u32,
    counted: u32,
    bytes: usize,
    closed: bool,
}

impl<T: Weight> Mailbox<T> {
    /// An empty, open mailbox.
    pub const fn new(limits: MailboxLimits) -> Self {
        let inner = Inner {
            items: Vec::new(),
            waker: None,
            orders_only: false,
            orders: 0,
            counted: 0,
            bytes: 0,
            closed: false,
        };
        Self { limits, inner: Mutex::new(inner) }
    }

    /// Puts an item at the end and wakes the owner if it slept. Never waits.
    ///
    /// # Errors
    /// [`Refused`], with the item.
    pub fn push(&self, item: T) -> Result<Depth, Refused<T>> {
        let weight = item.bytes();
        let class = item.class();
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Refused::Closed(item));
        }
        let is_order = class == Class::Order;
        inner.orders += u32::from(is_order);
        if !is_order && class != Class::Control {
            let MailboxLimits { items_max, bytes_max } = self.limits;
            let (items_max, bytes_max) = match class {
                Class::Presence => (items_max - items_max / 4, bytes_max - bytes_max / 4),
                _ => (items_max, bytes_max),
            };
            let fits = inner.counted == 0
                || (inner.counted < items_max
                    && inner.bytes.saturating_add(weight) <= bytes_max as usize);
            if !fits {
                return Err(Refused::Full(item));
            }
            inner.counted += 1;
            inner.bytes = inner.bytes.saturating_add(weight);
        }
        inner.items.push(item);
        let depth = Depth { items: inner.items.len(), bytes: inner.bytes };
        let wakes = is_order || !inner.orders_only;
        let waker = if wakes { inner.waker.take() } else { None };
        drop(inner); // whoever is woken on another core wants the lock at once
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(depth)
    }

    /// Appends everything that is there to `into`; the number of items, never 0. `Pending` when there is nothing: then the task of
    /// `cx` is woken by the next push. Only one task may wait; a second one takes the first one's place. Cancel safe.
    ///
    /// A closed mailbox is `Pending` for ever: it is the owner who closes.
    pub fn poll_drain(&self, cx: &mut Context<'_>, into: &mut Vec<T>) -> Poll<usize> {
        let mut inner = self.inner.lock();
        if inner.items.is_empty() {
            inner.wait(cx, false);
            return Poll::Pending;
        }
        // A stale waker would wake a task that is awake.
        inner.waker = None;
        let items = inner.take();
        drop(inner);
        let count = items.len();
        if into.is_empty() {
            *into = items;
        } else {
            into.extend(items);
        }
        Poll::Ready(count)
    }

    /// The same of orders alone, for an owner that can take nothing else now: the rest stays, in order, and wakes nobody.
    pub fn poll_orders(&self, cx: &mut Context<'_>, into: &mut Vec<T>) -> Poll<usize> {
        let mut inner = self.inner.lock();
        if inner.orders == 0 {
            inner.wait(cx, true);
            return Poll::Pending;
        }
        inner.waker = None;
        let count = std::mem::take(&mut inner.orders) as usize;
        into.extend(inner.items.extract_if(.., |item| item.class() == Class::Order));
        Poll::Ready(count)
    }

    /// Those of the items that are asked for, none of them an order or control; the rest stays, in order.
    pub fn extract(&self, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut inner = self.inner.lock();
        let is_own = |item: &T| matches!(item.class(), Class::Order | Class::Control);
        let out: Vec<T> = inner.items.extract_if(.., |item| !is_own(item) && which(item)).collect();
        inner.counted -= u32::try_from(out.len()).expect("no more than were counted");
        inner.bytes = inner.bytes.saturating_sub(out.iter().map(Weight::bytes).sum());
        out
    }

    /// [`poll_drain`](Self::poll_drain) without waiting: everything that is there, maybe nothing.
    pub fn drain(&self) -> Vec<T> {
        self.inner.lock().take()
    }

    /// Takes nothing more; what nobody has drained comes back, in order, for the caller to route again. Closing
    /// a closed mailbox gives nothing.
    pub fn close(&self) -> Vec<T> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.waker = None;
        inner.take()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Whether it is less than half full.
    pub fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.counted < self.limits.items_max / 2
            && inner.bytes < self.limits.bytes_max as usize / 2
    }

    /// How full it is.
    pub fn depth(&self) -> Depth {
        let inner = self.inner.lock();
        Depth { items: inner.items.len(), bytes: inner.bytes }
    }
}

impl<T> Inner<T> {
    fn wait(&mut self, cx: &Context<'_>, orders_only: bool) {
        self.orders_only = orders_only;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()), // which does nothing if it is the same
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn take(&mut self) -> Vec<T> {
        self.orders = 0;
        self.counted = 0;
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        write!(
            f,
            "Mailbox({} items, {} bytes, closed: {})",
            inner.items.len(),
            inner.bytes,
            inner.closed
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Item(Class, usize, u32);

    impl Weight for Item {
        fn bytes(&self) -> usize {
            self.1
        }
        fn class(&self) -> Class {
            self.0
        }
    }

    fn message(n: u32) -> Item {
        Item(Class::Message, 10, n)
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn mailbox(items_max: u32, bytes_max: u32) -> Mailbox<Item> {
        Mailbox::new(MailboxLimits { items_max, bytes_max })
    }

    #[test]
    fn an_empty_mailbox_is_small_and_owns_nothing() {
        println!("Mailbox: {} bytes", size_of::<Mailbox<Item>>());
        assert!(size_of::<Mailbox<Item>>() <= 80);
        let mailbox = mailbox(100, 10_000);
        for n in 0..100 {
            mailbox.push(message(n)).expect("fits");
        }
        let mut got = Vec::new();
        assert_eq!(
            mailbox.poll_drain(&mut Context::from_waker(Waker::noop()), &mut got),
            Poll::Ready(100)
        );
        assert_eq!(mailbox.inner.lock().items.capacity(), 0);
        assert_eq!(mailbox.depth(), Depth { items: 0, bytes: 0 });
    }

    #[test]
    fn a_batch_wakes_once_and_a_drained_mailbox_wakes_again() {
        let mailbox = mailbox(100, 10_000);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut got = Vec::new();
        for round in 1..=3 {
            assert_eq!(mailbox.poll_drain(&mut cx, &mut got), Poll::Pending);
            for n in 0..5 {
                mailbox.push(message(n)).expect("fits");
            }
            assert_eq!(count.0.load(Ordering::SeqCst), round);
            assert_eq!(mailbox.poll_drain(&mut cx, &mut got), Poll::Ready(5));
        }
        assert_eq!(got.len(), 15);
    }

    #[test]
    fn presence_gives_way_to_messages_and_control_always_fits() {
        let mailbox = mailbox(8, 1000);
        let presence = Item(Class::Presence, 1, 0);
        for _ in 0..6 {
            mailbox.push(presence).expect("fits");
        }
        assert_eq!(mailbox.push(presence), Err(Refused::Full(presence)));
        mailbox.push(message(1)).expect("fits");
        mailbox.push(Item(Class::Iq, 1, 2)).expect("fits");
        assert_eq!(mailbox.push(message(3)), Err(Refused::Full(message(3))));
        let control = Item(Class::Control, 5000, 4);
        assert_eq!(mailbox.push(control).expect("fits").items, 9);
        assert_eq!(mailbox.drain().last(), Some(&control));
    }

    #[test]
    fn an_owner_that_can_take_nothing_else_hears_orders() {
        let mailbox = mailbox(100, 10_000);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut got = Vec::new();
        let order = |n| Item(Class::Order, 10, n);
        let control = Item(Class::Control, 10, 2);
        mailbox.push(message(1)).expect("fits");
        assert_eq!(mailbox.poll_orders(&mut cx, &mut got), Poll::Pending);
        mailbox.push(control).expect("fits");
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        for item in [order(3), message(4), order(5)] {
            mailbox.push(item).expect("fits");
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(mailbox.poll_orders(&mut cx, &mut got), Poll::Ready(2));
        assert_eq!(std::mem::take(&mut got), [order(3), order(5)]);
        assert_eq!(mailbox.poll_orders(&mut cx, &mut got), Poll::Pending);
        // Later it takes everything again, and is woken for everything.
        assert_eq!(mailbox.poll_drain(&mut cx, &mut got), Poll::Ready(3));
        assert_eq!(std::mem::take(&mut got), [message(1), control, message(4)]);
        assert_eq!(mailbox.poll_drain(&mut cx, &mut got), Poll::Pending);
        mailbox.push(message(6)).expect("fits");
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        // A drain takes the orders too.
        mailbox.push(order(7)).expect("fits");
        assert_eq!(mailbox.poll_drain(&mut cx, &mut got), Poll::Ready(2));
        assert_eq!(mailbox.poll_orders(&mut cx, &mut got), Poll::Pending);
    }

    #[test]
    fn bytes_are_bounded_but_one_giant_gets_through() {
        let mailbox = mailbox(100, 100);
        let giant = Item(Class::Message, 100_000, 0);
        mailbox.push(giant).expect("alone");
        assert_eq!(mailbox.push(message(1)), Err(Refused::Full(message(1))));
        assert_eq!(mailbox.drain(), [giant]);
        for n in 0..10 {
            mailbox.push(message(n)).expect("fits");
        }
        assert_eq!(mailbox.push(message(10)), Err(Refused::Full(message(10))));
    }

    #[test]
    fn closing_gives_back_what_was_left_and_refuses_the_rest() {
        let mailbox = mailbox(100, 10_000);
        mailbox.push(message(1)).expect("fits");
        mailbox.push(message(2)).expect("fits");
        assert_eq!(mailbox.close(), [message(1), message(2)]);
        assert_eq!(mailbox.push(message(3)), Err(Refused::Closed(message(3))));
        let control = Item(Class::Control, 1, 4);
        assert_eq!(mailbox.push(control).map_err(Refused::into_item), Err(control));
        assert_eq!(mailbox.close(), []);
    }

    /// Every step takes the lock once, so the interleavings of whole steps are all there are. All of two senders, a waiting owner
    /// and a closing one are walked through: nothing is lost or doubled, each sender's order holds, and an owner that
    /// sleeps over a filled mailbox has been woken.
    #[test]
    fn no_interleaving_loses_an_item_or_a_wake() {
        // Senders 0 and 1 push three each; 2 polls four times; 3 closes once.
        fn walk(left: [u8; 4], order: &mut Vec<u8>, seen: &mut usize) {
            if left == [0; 4] {
                *seen += 1;
                return check(order);
            }
            for who in 0..4_u8 {
                let mut left = left;
                if left[usize::from(who)] > 0 {
                    left[usize::from(who)] -= 1;
                    order.push(who);
                    walk(left, order, seen);
                    order.pop();
                }
            }
        }
        fn check(order: &[u8]) {
            let mailbox = mailbox(4, 10_000);
            let count = Arc::new(Count::default());
            let waker = Waker::from(count.clone());
            let mut cx = Context::from_waker(&waker);
            let (mut next, mut got, mut back) = ([0_u32, 100], Vec::new(), Vec::new());
            let (mut asleep, mut wakes, mut closed) = (false, 0, false);
            for &who in order {
                match who {
                    0 | 1 => {
                        let n = next[usize::from(who)];
                        next[usize::from(who)] += 1;
                        match mailbox.push(message(n)) {
                            Ok(_) => wakes += usize::from(std::mem::take(&mut asleep)),
                            Err(refused) => back.push(refused.into_item()),
                        }
                    }
                    2 => asleep = mailbox.poll_drain(&mut cx, &mut got).is_pending() && !closed,
                    _ => {
                        back.extend(mailbox.close());
                        closed = true;
                        asleep = false;
                    }
                }
                assert_eq!(count.0.load(Ordering::SeqCst), wakes, "{order:?}");
            }
            for range in [0..100, 100..200] {
                let numbers: Vec<u32> =
                    got.iter().map(|item| item.2).filter(|n| range.contains(n)).collect();
                assert!(numbers.is_sorted(), "{order:?}");
            }
            got.extend(back);
            got.sort_by_key(|item| item.2);
            let numbers: Vec<u32> = got.iter().map(|item| item.2).collect();
            assert_eq!(numbers, [0, 1, 2, 100, 101, 102], "{order:?}");
        }
        let mut seen = 0;
        walk([3, 3, 4, 1], &mut Vec::new(), &mut seen);
        assert_eq!(seen, 46_200); // 11! / (3! 3! 4! 1!)
    }

    #[test]
    fn four_threads_push_against_one_that_sleeps_and_nothing_is_lost() {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        const EACH: u32 = 20_000;
        let mailbox = mailbox(64, 100_000);
        let full = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for sender in 0..4_u32 {
                let (mailbox, full) = (&mailbox, &full);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let mut item = message(sender << 24 | n);
                        while let Err(refused) = mailbox.push(item) {
                            full.fetch_add(1, Ordering::Relaxed);
                            item = refused.into_item();
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            let mut cx = Context::from_waker(&waker);
            let (mut next, mut got, mut all) = ([0_u32; 4], Vec::new(), 0);
            while all < EACH * 4 {
                if mailbox.poll_drain(&mut cx, &mut got).is_pending() {
                    let before = std::time::Instant::now();
                    std::thread::park_timeout(Duration::from_secs(20));
                    assert!(before.elapsed() < Duration::from_secs(20), "a wake was lost");
                    continue;
                }
                for Item(_, _, n) in got.drain(..) {
                    let sender = (n >> 24) as usize;
                    assert_eq!(n & 0xff_ffff, next[sender]);
                    next[sender] += 1;
                    all += 1;
                }
            }
        });
        assert_eq!(mailbox.depth().items, 0);
    }
}
