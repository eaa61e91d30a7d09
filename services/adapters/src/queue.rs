//! Readings on their way: in batches, in memory, within a bound, until telemetry has acknowledged them or they are put aside.

use std::collections::VecDeque;

/// One value of one sensor, by the sensor's place in the catalog.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The sensor's place in the [`crate::source::Catalog`].
    pub sensor: usize,
    /// The value, in the sensor's unit.
    pub value: f64,
}

/// Values taken at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its number: greater than that of the batch before.
    pub number: u64,
    /// When they were taken, nanoseconds since the Unix epoch.
    pub time: i64,
    /// The values.
    pub values: Vec<Value>,
}

/// What has become of readings since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub delivered: u64,
    /// Refused by telemetry.
    pub refused: u64,
    /// Given up because too many were waiting.
    pub dropped: u64,
}

/// Batches that wait for their acknowledgement, the oldest first.
///
/// A batch keeps its number and so its id until it is acknowledged: sent again, it is stored once.
#[derive(Debug)]
pub struct Queue {
    id: String,
    next: u64,
    waiting: VecDeque<Batch>,
    readings: usize,
    capacity: usize,
    counts: Counts,
}

impl Queue {
    /// A queue for at most `capacity` readings. `id` makes its batch ids differ from every other queue's.
    pub fn new(id: impl Into<String>, capacity: usize) -> Self {
        let counts = Counts::default();
        Self { id: id.into(), next: 1, waiting: VecDeque::new(), readings: 0, capacity, counts }
    }

    /// Adds a batch. Where that is more than may wait, the oldest are given up and counted.
    pub fn push(&mut self, time: i64, values: Vec<Value>) {
        if values.is_empty() {
            return;
        }
        self.readings += values.len();
        self.waiting.push_back(Batch { number: self.next, time, values });
        self.next += 1;
        while self.readings > self.capacity && self.waiting.len() > 1 {
            if let Some(oldest) = self.waiting.pop_front() {
                self.readings -= oldest.values.len();
                self.counts.dropped += oldest.values.len() as u64;
            }
        }
    }

    /// The first batch with a number greater than `number`.
    pub fn after(&self, number: u64) -> Option<&Batch> {
        let place = self.waiting.partition_point(|batch| batch.number <= number);
        self.waiting.get(place)
    }

    /// The id under which a batch is sent, however often.
    pub fn batch_id(&self, number: u64) -> String {
        format!("{}-{number}", self.id)
    }

    /// Takes out every batch up to `number`: they are durable, save `refused` of their readings. Returns how many
    /// readings are durable.
    pub fn acknowledge(&mut self, number: u64, refused: u64) -> u64 {
        let durable = self.take_out(number);
        let refused = refused.min(durable);
        self.counts.refused += refused;
        self.counts.delivered += durable - refused;
        durable - refused
    }

    /// How many readings were in the batches up to `number`, which wait no longer.
    fn take_out(&mut self, number: u64) -> u64 {
        let mut readings = 0;
        while self.waiting.front().is_some_and(|batch| batch.number <= number) {
            if let Some(batch) = self.waiting.pop_front() {
                readings += batch.values.len();
            }
        }
        self.readings -= readings;
        readings as u64
    }

    /// Whole batches from the oldest on, at least one and no more than `most` readings where there are several.
    pub fn oldest_batches(&self, most: usize) -> impl Iterator<Item = &Batch> {
        let mut readings = 0;
        self.waiting.iter().enumerate().map_while(move |(place, batch)| {
            readings += batch.values.len();
            (place == 0 || readings <= most).then_some(batch)
        })
    }

    /// Takes out every batch up to `number`: they wait elsewhere.
    pub fn put_aside(&mut self, number: u64) {
        self.take_out(number);
    }

    /// Counts what waited elsewhere and is settled.
    pub fn settled(&mut self, more: Counts) {
        self.counts.delivered += more.delivered;
        self.counts.refused += more.refused;
        self.counts.dropped += more.dropped;
    }

    /// How many readings wait.
    pub fn len(&self) -> usize {
        self.readings
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the oldest reading that waits was taken, nanoseconds since the Unix epoch.
    pub fn oldest(&self) -> Option<i64> {
        self.waiting.front().map(|batch| batch.time)
    }

    /// When the newest reading that waits was taken, nanoseconds since the Unix epoch.
    pub fn newest(&self) -> Option<i64> {
        self.waiting.back().map(|batch| batch.time)
    }

    /// What has become of readings since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<Value> {
        (0..count).map(|sensor| Value { sensor, value: 1.0 }).collect()
    }

    fn queue(capacity: usize, batches: &[usize]) -> Queue {
        let mut queue = Queue::new("q", capacity);
        for (time, count) in batches.iter().enumerate() {
            queue.push(time as i64, values(*count));
        }
        queue
    }

    #[test]
    fn the_oldest_is_given_up_when_too_many_wait() {
        let queue = queue(10, &[4, 4, 4]);
        assert_eq!((queue.len(), queue.oldest(), queue.counts().dropped), (8, Some(1), 4));
        assert_eq!(queue.after(0).map(|batch| batch.number), Some(2));
    }

    #[test]
    fn a_batch_larger_than_the_bound_is_kept_alone() {
        let queue = queue(10, &[4, 20]);
        assert_eq!((queue.len(), queue.counts().dropped), (20, 4));
    }

    #[test]
    fn an_acknowledgement_covers_every_batch_up_to_its_number() {
        let mut queue = queue(100, &[2, 3, 5]);
        assert_eq!(queue.acknowledge(2, 1), 4);
        assert_eq!(queue.counts(), Counts { delivered: 4, refused: 1, dropped: 0 });
        assert_eq!(queue.after(0).map(|batch| batch.number), Some(3));
        assert_eq!(queue.acknowledge(2, 0), 0);
        queue.acknowledge(9, 0);
        assert!(queue.is_empty());
        assert_eq!(queue.counts().delivered, 9);
    }

    #[test]
    fn what_is_put_aside_goes_in_whole_batches_and_counts_when_it_is_settled() {
        let mut queue = queue(100, &[4, 4, 4]);
        let numbers = |queue: &Queue, most| queue.oldest_batches(most).map(|batch| batch.number).collect::<Vec<_>>();
        assert_eq!((numbers(&queue, 8), numbers(&queue, 3), numbers(&queue, 11)), (vec![1, 2], vec![1], vec![1, 2]));
        queue.put_aside(2);
        assert_eq!((queue.len(), queue.counts()), (4, Counts::default()));
        queue.settled(Counts { delivered: 7, refused: 1, dropped: 0 });
        assert_eq!(queue.counts(), Counts { delivered: 7, refused: 1, dropped: 0 });
    }

    #[test]
    fn a_batch_keeps_its_id_and_numbers_grow() {
        let mut queue = queue(100, &[1, 1]);
        queue.acknowledge(2, 0);
        queue.push(9, values(1));
        queue.push(9, Vec::new());
        assert_eq!(queue.after(0).map(|batch| batch.number), Some(3));
        assert_eq!(queue.batch_id(3), "q-3");
        assert_eq!(queue.after(3), None);
    }
}
