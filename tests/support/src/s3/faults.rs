//! What goes wrong, for which requests, and how often: scripted by a test.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::record::{Op, RecordedRequest};

/// What happens to a request in place of, or besides, its proper answer.
///
/// A stall ends when its [`ScriptedFault`] is cleared; the request then goes on as if nothing had been, unless its client
/// has gone.
#[derive(Clone)]
pub enum Fault {
    /// An error of S3 with this status and code; nothing is done.
    Error(u16, &'static str),
    /// The connection is closed; nothing is done.
    Cut,
    /// The connection is reset; nothing is done.
    Reset,
    /// All connections are closed, and new ones refused until [`super::S3::reopen`]; nothing is done.
    Refuse,
    /// The request waits; nothing is done before it goes on.
    Stall,
    /// It is called, then the request goes on.
    Run(Arc<dyn Fn(&RecordedRequest) + Send + Sync>),
    /// One byte of the request's body is another than was sent.
    CorruptRequest,
    /// It is done, and the connection is closed in place of an answer.
    LoseResponse,
    /// It is done, and the answer waits.
    StallResponse,
    /// Of the answer's body there come this many bytes at most; then the connection is reset.
    CutBody(usize),
    /// Of the answer's body there come this many bytes; then the connection is closed.
    ShortBody(usize),
    /// Of the answer's body there come this many bytes; the rest waits.
    StallBody(usize),
    /// One byte of the answer's body is another than is stored.
    CorruptBody,
    /// The checksums in the answer's head, where the client asks for any, are not those of its body.
    WrongChecksum,
}

impl Fault {
    /// 500 `InternalError`.
    pub const INTERNAL_ERROR: Self = Self::Error(500, "InternalError");
    /// 503 `SlowDown`.
    pub const SLOW_DOWN: Self = Self::Error(503, "SlowDown");
    /// 403 `AccessDenied`.
    pub const ACCESS_DENIED: Self = Self::Error(403, "AccessDenied");
    /// 409 `ConditionalRequestConflict`.
    pub const CONFLICT: Self = Self::Error(409, "ConditionalRequestConflict");
}

type Predicate = Box<dyn Fn(&RecordedRequest) -> bool + Send + Sync>;

/// Which requests a fault is played on: by default each, for ever.
pub struct When {
    matches: Vec<Predicate>,
    skip: usize,
    times: usize,
    rate: Option<(f64, Mutex<u64>)>,
}

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self {
            matches: Vec::new(),
            skip: 0,
            times: usize::MAX,
            rate: None,
        }
    }

    /// The requests for an operation.
    pub fn op(op: Op) -> Self {
        Self::any().and(move |request| request.op == op)
    }

    /// Of these, the ones whose key starts like this.
    #[must_use]
    pub fn key_starts_with(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.and(move |request| request.key.starts_with(&prefix))
    }

    /// Of these, the ones that this is true for.
    #[must_use]
    pub fn and(
        mut self,
        predicate: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.matches.push(Box::new(predicate));
        self
    }

    /// Of these, not the first ones.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Of these, as many at most.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Of these, one.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Of these, a part between 0 and 1, drawn by lot; the same seed draws the same.
    #[must_use]
    pub fn rate(mut self, part: f64, seed: u64) -> Self {
        self.rate = Some((part, Mutex::new(seed)));
        self
    }

    fn drawn(&self) -> bool {
        let Some((part, state)) = &self.rate else {
            return true;
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        // SplitMix64, of Steele, Lea and Flood.
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = *state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let high = u32::try_from((bits ^ (bits >> 31)) >> 32).unwrap_or(u32::MAX);
        f64::from(high) / (f64::from(u32::MAX) + 1.0) < *part
    }
}

/// A fault in the script.
#[derive(Clone)]
pub struct ScriptedFault(Arc<Inner>);

struct Inner {
    when: When,
    fault: Fault,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    seen: usize,
    hits: usize,
    cleared: bool,
}

impl ScriptedFault {
    /// How many requests it was played on.
    pub fn hits(&self) -> usize {
        self.0.state.borrow().hits
    }

    /// Waits until it was played on this many requests.
    pub async fn wait_for_hits(&self, times: usize) {
        // The state lives as long as `self`.
        let _ = self
            .0
            .state
            .subscribe()
            .wait_for(|state| state.hits >= times)
            .await;
    }

    /// Ends it: it is played no more, and what it stalls goes on.
    pub fn clear(&self) {
        self.0.state.send_modify(|state| state.cleared = true);
    }

    /// What happens.
    pub(super) fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// Waits until it is cleared.
    pub(super) async fn cleared(self) {
        let _ = self
            .0
            .state
            .subscribe()
            .wait_for(|state| state.cleared)
            .await;
    }

    fn plays_on(&self, request: &RecordedRequest) -> bool {
        if self.0.state.borrow().cleared
            || !self.0.when.matches.iter().all(|matches| matches(request))
        {
            return false;
        }
        self.0.state.send_if_modified(|state| {
            state.seen += 1;
            let plays = state.seen > self.0.when.skip
                && state.hits < self.0.when.times
                && self.0.when.drawn();
            state.hits += usize::from(plays);
            plays
        })
    }
}

/// The faults, in the order in which they were scripted.
#[derive(Default)]
pub struct Script(Mutex<Vec<ScriptedFault>>);

impl Script {
    /// Adds one.
    pub fn add(&self, when: When, fault: Fault) -> ScriptedFault {
        let scripted = ScriptedFault(Arc::new(Inner {
            when,
            fault,
            state: watch::Sender::default(),
        }));
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scripted.clone());
        scripted
    }

    /// Ends them all.
    pub fn clear(&self) {
        for scripted in self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            scripted.clear();
        }
    }

    /// The one that is played on this request: the first that fits.
    pub fn pick(&self, request: &RecordedRequest) -> Option<ScriptedFault> {
        let scripted = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        scripted
            .into_iter()
            .find(|scripted| scripted.plays_on(request))
    }
}
