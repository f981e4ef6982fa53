//! What can be done to an authority, drawn cheaply: each step is read out of a few random bytes.

use std::sync::LazyLock;

use aaos_core::budget::{Budget, Ceilings};
use aaos_core::capability::{Capability, Constraints, GrantSpec, ToolSet};
use aaos_core::effect::Need;
use aaos_core::grant::GrantRequest;
use aaos_core::id::GrantId;
use aaos_core::manifest::{Lifecycle, Manifest};
use aaos_core::name::{AgentName, ToolName};
use aaos_core::quantity::{Millis, Quantity};
use proptest::prelude::*;

use crate::model::{Cap, Sums, Want};
use crate::support::{host, read, tool, write};

/// Capabilities, so few that they meet often.
pub(crate) const CAPS: [Cap; 12] = [
    Cap::Tool(None),
    Cap::Write { dir: "/a", exact: false },
    Cap::Spawn(None),
    Cap::Tool(Some("echo")),
    Cap::Tool(Some("memory_store")),
    Cap::Read { dir: "/a", exact: false },
    Cap::Read { dir: "/a/b", exact: false },
    Cap::Read { dir: "/a/b", exact: true },
    Cap::Write { dir: "/a/b", exact: false },
    Cap::Net { host: "a.org", below: true },
    Cap::Net { host: "x.a.org", below: false },
    Cap::Spawn(Some("kid")),
];

/// What an agent may ask for.
pub(crate) const WANTS: [Want; 12] = [
    Want::Tool("echo"),
    Want::Write("/a/b/c"),
    Want::Tool("grep"),
    Want::Tool("memory_store"),
    Want::Read("/a/b"),
    Want::Read("/a/b/../x"),
    Want::Read("/a/bc"),
    Want::Write("/a/x"),
    Want::Host("a.org"),
    Want::Host("x.a.org"),
    Want::Spawn("kid"),
    Want::Spawn("other"),
];

fn words(cap: Cap) -> String {
    let tail = |exact| if exact { "" } else { "/*" };
    match cap {
        Cap::Tool(one) => format!("tool: {}", one.unwrap_or("*")),
        Cap::Read { dir, exact } => format!("file_read: {dir}{}", tail(exact)),
        Cap::Write { dir, exact } => format!("file_write: {dir}{}", tail(exact)),
        Cap::Net { host, below } => format!("network: {}{host}", if below { "*." } else { "" }),
        Cap::Spawn(one) => format!("spawn_child: [{}]", one.unwrap_or("*")),
    }
}

static CAPABILITIES: LazyLock<Vec<Capability>> = LazyLock::new(|| {
    let capability = |cap: &Cap| match cap {
        // The grammar knows tools that there are; the law also those to come.
        Cap::Tool(Some(name)) => Capability::Tool(ToolSet::One(ToolName::parse(name).expect("a name"))),
        cap => GrantSpec::parse(&words(*cap)).expect("a grant").capability,
    };
    CAPS.iter().map(capability).collect()
});
static NEEDS: LazyLock<Vec<Need>> = LazyLock::new(|| {
    let need = |want: &Want| match want {
        Want::Tool(name) => tool(name),
        Want::Read(path) => read(path),
        Want::Write(path) => write(path),
        Want::Host(name) => host(name, 443),
        Want::Spawn(name) => Need::Spawn(AgentName::parse(name).expect("a name")),
    };
    WANTS.iter().map(need).collect()
});
static TEMPLATE: LazyLock<Manifest> =
    LazyLock::new(|| Manifest::parse("name: a\nmodel: m\nsystem_prompt: p").expect("a manifest"));

pub(crate) fn need_of(want: &Want) -> Need {
    let at = WANTS.iter().position(|one| one == want).expect("one of them");
    NEEDS[at].clone()
}

pub(crate) fn template(stable: bool) -> Manifest {
    let lifecycle = if stable { Lifecycle::Persistent } else { Lifecycle::OnDemand };
    Manifest { lifecycle, ..TEMPLATE.clone() }
}

pub(crate) fn request_of(wish: &GrantWish, id: GrantId) -> GrantRequest {
    let capability = CAPABILITIES[wish.cap].clone();
    GrantRequest { id, capability, spelled: None, constraints: wish.bounds, root: None, special: None }
}

/// A grant that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GrantWish {
    pub(crate) cap: usize,
    /// Whether a child asks only for what lies within its parent's grant.
    pub(crate) fits: bool,
    pub(crate) bounds: Constraints,
}

/// A purse that is asked for, and a tool that a person has to approve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurseWish {
    tokens: Option<u64>,
    written: Option<u64>,
    wall: Option<u64>,
    pub(crate) period: Option<u64>,
    pub(crate) asks_for: Option<&'static str>,
}

impl PurseWish {
    pub(crate) fn max(&self) -> [Option<u64>; Quantity::ALL.len()] {
        Quantity::ALL.map(|quantity| match quantity {
            Quantity::Tokens => self.tokens,
            Quantity::WrittenBytes => self.written,
            Quantity::WallMillis => self.wall,
            _ => None,
        })
    }

    pub(crate) fn budget(&self) -> Budget {
        let pairs = Quantity::ALL.into_iter().zip(self.max());
        let max = pairs.fold(Ceilings::NONE, |all, (quantity, most)| all.with(quantity, most));
        Budget { max, reset_period: self.period.map(Millis) }
    }
}

/// One thing that is done.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Pass { ms: i64 },
    Root { purse: PurseWish, grants: Vec<GrantWish>, stable: bool },
    Child { parent: u8, purse: PurseWish, grants: Vec<(u8, GrantWish)> },
    Call { who: u8, wants: Vec<Want>, wanted: Sums, journalled: bool },
    Settle { open: u8, part: u64 },
    Refund { open: u8, by_drop: bool },
    PayAhead { open: u8 },
    Revoke { grant: u8 },
    Remove { who: u8 },
    Answer { question: u8, answer: u8, uses: u32 },
    StartClock { who: u8 },
    StopClock { who: u8 },
    Restart,
}

/// Whether the journal is read at every entry of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cutting {
    Here,
    Elsewhere,
}

/// Random bytes that are read one choice at a time; zeros choose the plainest.
struct Bits(u64);

impl Bits {
    fn below(&mut self, most: u64) -> u64 {
        let chosen = self.0 % most;
        self.0 /= most;
        chosen
    }

    fn of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[usize::try_from(self.below(N as u64)).expect("small")]
    }
}

/// Read from random bytes: what, for whom, and how.
pub(crate) type Raw = (u8, u8, u64, u64);

pub(crate) fn any_raw() -> impl Strategy<Value = Raw> {
    (any::<u8>(), any::<u8>(), any::<u64>(), any::<u64>())
}

fn grant_wish(bits: &mut Bits) -> GrantWish {
    let bounds = Constraints {
        max_invocations: bits.of([None, None, Some(1), Some(2), Some(4)]),
        max_per_minute: bits.of([None, None, None, Some(1), Some(2)]),
        expires_in_seconds: bits.of([None, None, None, Some(5), Some(90)]),
        usable: bits.of([true, true, true, true, false]),
        delegate: bits.of([true, true, true, true, false]),
        approval_required: bits.of([false, false, false, false, false, false, true]),
    };
    let cap = usize::try_from(bits.below(12)).expect("small");
    GrantWish { cap, fits: bits.of([true, true, true, true, true, false]), bounds }
}

fn purse_wish(bits: &mut Bits) -> PurseWish {
    PurseWish {
        tokens: bits.of([None, Some(100), Some(60), Some(150)]),
        written: bits.of([None, None, Some(60)]),
        wall: bits.of([None, Some(300), Some(8_000)]),
        period: bits.of([None, None, Some(3_000), Some(20_000)]),
        asks_for: bits.of([None, None, None, None, Some("echo"), Some("grep")]),
    }
}

impl Step {
    /// The first step admits a root, so that there is somebody.
    pub(crate) fn first(raw: Raw) -> Self {
        Self::of((255, raw.1, raw.2, raw.3))
    }

    pub(crate) fn of((kind, who, one, two): Raw) -> Self {
        let (mut one, mut two) = (Bits(one), Bits(two));
        match kind {
            0..=20 => Self::Pass { ms: one.of([100, 1_000, 7_000, 40_000, -500, -30_000]) },
            21..=105 => call_step(who, &mut one, &mut two),
            106..=140 => Self::Settle { open: who, part: one.of([10, 0, 5, 10, 13, 8]) },
            141..=155 => Self::Refund { open: who, by_drop: one.of([true, false]) },
            156..=160 => Self::PayAhead { open: who },
            161..=195 => {
                let purse = purse_wish(&mut one);
                let count = 1 + one.below(3);
                let grants = (0..count)
                    .map(|_| (u8::try_from(two.below(5)).expect("small"), grant_wish(&mut two)))
                    .collect();
                Self::Child { parent: who, purse, grants }
            }
            196..=205 => Self::Revoke { grant: who },
            206..=211 => Self::Remove { who },
            212..=225 => {
                Self::Answer { question: who, answer: one.of([1, 2, 3, 4, 0, 3]), uses: one.of([1, 2, 3]) }
            }
            226..=235 => Self::StartClock { who },
            236..=241 => Self::StopClock { who },
            242..=245 => Self::Restart,
            246..=255 => {
                let purse = purse_wish(&mut one);
                let count = 2 + one.below(3);
                let mut grants: Vec<_> = (0..count).map(|_| grant_wish(&mut two)).collect();
                // Most of what children ask for is among these.
                for (at, wish) in grants.iter_mut().enumerate().take(2) {
                    wish.cap = at;
                }
                Self::Root { purse, grants, stable: one.of([false, true]) }
            }
        }
    }
}

fn call_step(who: u8, one: &mut Bits, two: &mut Bits) -> Step {
    let first = one.of([WANTS[0], WANTS[0], WANTS[1], WANTS[1], WANTS[2], WANTS[3], WANTS[7]]);
    let wants = match one.below(6) {
        0..=2 => vec![first],
        3 => vec![first, WANTS[1]],
        4 => vec![one.of(WANTS)],
        _ => Vec::new(),
    };
    let mut wanted = Sums::default();
    wanted[Quantity::Tokens as usize] = two.of([0, 0, 10, 30, 60, 110]);
    wanted[Quantity::WrittenBytes as usize] = two.of([0, 0, 5, 40]);
    Step::Call { who, wants, wanted, journalled: two.of([true, true, false]) }
}
