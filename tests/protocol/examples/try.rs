use save_protocol::*;
fn main() {
    let a: Vec<u32> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let i = Instance { savers: a[0] as usize, edits: a[1] as u8, ticks: a[2] as u8, page_keys: a[3] as usize, has_large_file: a[4]==1, lost_answers: a[5] as u8,
      reads: 2, listings: 3, has_history: a[6]>0, pruners: a[6] as usize, runs: a[7] as u8, drops: a[8] as u8, kills_pruner: a[9]==1, left_out: None, contents: *a.get(10).unwrap_or(&2) as u8, edits_share_times: *a.get(11).unwrap_or(&1) == 1 };
    let r = i.search(2);
    println!("{} states {} steps depth {} {:?} unreached {:?}", r.states, r.steps, r.depth, r.elapsed, r.unreached);
    for (n, t) in r.violations { println!("VIOLATED {n} in {}:", t.len()); for a in t { println!("   {a:?}"); } }
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
