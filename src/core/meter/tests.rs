//! Every row, walked.

use super::*;

const ONE: Payer = Payer::Uid(1);
const TWO: Payer = Payer::Uid(2);
const ROOT: Payer = Payer::Uid(0);
const INSIDE: Payer = Payer::Instance(1);

/// Small shares, so that walking costs nothing.
fn small() -> Arc<Meter> {
    let shares = Resource::all().fold(Shares::default(), |shares, resource| shares.with(resource, 10));
    Meter::new(&shares, 40, 100)
}

#[test]
fn the_table_is_in_the_order_of_the_enum() {
    for (i, row) in Resource::TABLE.iter().enumerate() {
        assert_eq!(row.resource as usize, i, "{}", row.name);
        let same = |other: &&Row| other.name == row.name;
        assert_eq!(Resource::TABLE.iter().filter(same).count(), 1, "{}", row.name);
    }
}

#[test]
fn each_row_is_bounded_for_each_and_gives_back() {
    for resource in Resource::all() {
        let meter = small();
        let bound = meter.bounds(resource).uid;
        let wanted = if let Share::Fixed(number) = resource.row().share { number } else { 10 };
        assert_eq!(bound, wanted, "{resource:?}");
        let now = Instant::now();
        match resource.row().counted {
            Counted::Held => {
                let mut held: Vec<_> = (0..bound).map(|_| meter.charge(resource, ONE, 1).unwrap()).collect();
                let told = meter.charge(resource, ONE, 1).unwrap_err();
                assert_eq!((told.whose, told.bound), (Whose::Own(ONE), bound), "{resource:?}");
                drop(meter.charge(resource, TWO, 1).unwrap());
                drop(meter.charge(resource, ROOT, 1).unwrap());
                drop(meter.charge(resource, INSIDE, 1).unwrap());
                held.pop();
                assert!(meter.charge(resource, ONE, 1).is_ok());
                held.clear();
                assert!(meter.used(resource).by.is_empty());
                assert_eq!(meter.used(resource).all, 0);
            }
            Counted::Paced => {
                let at_once = bound * resource.row().burst;
                assert!((0..at_once).all(|_| meter.pace(resource, ONE, 1, now).is_zero()), "{resource:?}");
                assert_eq!(meter.pace(resource, ONE, 1, now), Duration::from_millis(100));
                assert_eq!(meter.pace(resource, ONE, 1, now), Duration::from_millis(200));
                assert!(meter.pace(resource, TWO, 1, now).is_zero());
                assert!(meter.pace(resource, ONE, 1, now + Duration::from_secs(1)).is_zero());
            }
            Counted::Spent => {
                meter.spend(resource, ONE, bound, now).unwrap();
                assert_eq!(meter.spend(resource, ONE, 1, now).unwrap_err().whose, Whose::Own(ONE));
                meter.spend(resource, TWO, bound, now).unwrap();
                meter.spend(resource, ONE, bound / 2, now + Duration::from_secs(43_200)).unwrap();
                assert!(meter.spend(resource, ONE, 2, now + Duration::from_secs(43_200)).is_err());
            }
            Counted::Kept => {
                meter.admit(resource, ONE, bound - 1, bound - 1, 1).unwrap();
                assert_eq!(meter.admit(resource, ONE, bound, bound, 1).unwrap_err().whose, Whose::Own(ONE));
            }
        }
    }
}

#[test]
fn nobody_but_root_takes_what_is_kept_for_root_and_all_have_a_bound() {
    for row in Resource::TABLE.iter().filter(|row| row.counted == Counted::Held) {
        let meter = small();
        let bounds = *meter.bounds(row.resource);
        let mut held: Vec<_> = (1..).map_while(|uid| meter.charge(row.resource, Payer::Uid(uid), 1).ok()).collect();
        assert_eq!(held.len() as u64, bounds.others.min(bounds.all), "{}", row.name);
        held.extend(std::iter::from_fn(|| meter.charge(row.resource, ROOT, 1).ok()));
        assert_eq!(held.len() as u64, bounds.all.min(bounds.others + bounds.root), "{}", row.name);
        assert!(bounds.all != NONE, "{}", row.name);
        held.clear();
        let inside: Vec<_> = (1..).map_while(|n| meter.charge(row.resource, Payer::Instance(n), 1).ok()).collect();
        assert_eq!(inside.len() as u64, bounds.instances.min(bounds.others), "{}", row.name);
    }
}

#[test]
fn what_is_alone_fits_unless_there_is_no_room_in_all() {
    let meter = small();
    let bytes = Resource::HandleBytes;
    let mut first = meter.charge(bytes, ONE, 15).unwrap();
    assert!(meter.charge(bytes, ONE, 1).is_err());
    first.grow_to(20).unwrap();
    assert_eq!(first.grow_to(31).unwrap_err().whose, Whose::Others);
    let _root = meter.charge(bytes, ROOT, 20).unwrap();
    assert_eq!(first.grow_to(21).unwrap_err().whose, Whose::All);
    assert!(meter.charge(Resource::Handles, ONE, 11).is_err());
}

#[test]
fn what_is_met_is_counted_and_told_without_who() {
    let meter = small();
    let _one = meter.charge(Resource::Handles, ONE, 3).unwrap();
    let _two = meter.charge(Resource::Handles, TWO, 5).unwrap();
    assert!(meter.charge(Resource::Handles, TWO, 6).is_err());
    meter.spend(Resource::CommitBytes, ONE, 4, Instant::now()).unwrap();
    let usage = meter.usage(|resource| if resource == Resource::Secrets { (7, 6) } else { (0, 0) });
    let of = |resource| *usage.iter().find(|u| u.resource == resource).unwrap();
    let told = |u: Usage| (u.used, u.most, u.share, u.refused);
    assert_eq!(told(of(Resource::Handles)), (8, 5, 10, 1));
    assert_eq!(told(of(Resource::Secrets)), (7, 6, 10, 0));
    assert!((3..=4).contains(&of(Resource::CommitBytes).used));
}

#[test]
fn a_message_names_the_limit_and_whose_it_is() {
    let meter = small();
    let error = meter.charge(Resource::Handles, ONE, 11).unwrap_err();
    let text = "the limit of open files and directories is reached (handles: 10 for one user)";
    assert_eq!(error.to_string(), text);
}

#[test]
fn many_that_come_once_are_not_remembered_for_ever() {
    let meter = small();
    let now = Instant::now();
    for uid in 1..(MANY as u32 * 3) {
        meter.pace(Resource::Opens, Payer::Uid(uid), 1, now + Duration::from_secs(uid.into()));
    }
    assert!(meter.used(Resource::Opens).by.len() <= MANY + 1);
}

#[test]
fn the_documents_have_the_same_rows() {
    let text = include_str!("../../../docs/limits.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let documented: Vec<Vec<String>> = text.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let meter = Meter::new(&Shares::default(), 64 << 20, 100_000);
    let ours: Vec<Vec<String>> = Resource::TABLE
        .iter()
        .map(|row| {
            let b = meter.bounds(row.resource);
            let bounds = [b.uid, b.root, b.instance, b.instances, b.others, b.all].map(|n| amount(n, row.unit));
            std::iter::once(row.name.to_owned()).chain(bounds).collect()
        })
        .collect();
    let theirs: Vec<Vec<String>> =
        documented.iter().map(|row| row[..1].iter().chain(&row[2..8]).cloned().collect()).collect();
    assert_eq!(theirs, ours);
}

fn amount(n: u64, unit: Unit) -> String {
    match (n, unit) {
        (NONE, _) => "-".into(),
        (n, Unit::Number | Unit::PerSecond) => n.to_string(),
        (n, Unit::Bytes | Unit::BytesPerDay) if n % (1 << 30) == 0 => format!("{} GiB", n >> 30),
        (n, Unit::Bytes | Unit::BytesPerDay) => format!("{} MiB", n >> 20),
    }
}
