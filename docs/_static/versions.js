// The menu of versions: those that `versions.json`, beside the folders of all versions, lists. Without it there is none.
document.addEventListener("DOMContentLoaded", async () => {
  const menu = document.querySelector("nav.versions");
  if (!menu || !location.protocol.startsWith("http")) return;
  const root = new URL(menu.dataset.root, location.href); // of this version
  const here = new URL(".", root);
  const answer = await fetch(new URL("../versions.json", here)).catch(() => null);
  if (!answer || !answer.ok) return;
  const select = menu.querySelector("select");
  for (const name of await answer.json()) {
    const chosen = here.pathname.endsWith(`/${name}/`);
    select.add(new Option(name, name, chosen, chosen));
  }
  select.addEventListener("change", () => {
    const page = location.href.slice(here.href.length);
    const there = new URL(`../${select.value}/`, here);
    fetch(new URL(page, there), { method: "HEAD" })
      .then((found) => (location.href = new URL(found.ok ? page : "index.html", there)))
      .catch(() => (location.href = there));
  });
  menu.hidden = false;
});
