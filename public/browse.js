// The list of skills: what the address bar says is what is shown.
const form = document.querySelector("#filters");
const list = document.querySelector("#skills");
const more = document.querySelector("#more");
const notice = document.querySelector("#notice");
const count = document.querySelector("#count");
const TYPING_PAUSE_MS = 200;

let latest = 0; // answers may overtake each other; only the latest question's counts
let nextCursor = null;

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

function card(skill) {
  const item = element("li", "");
  const title = element("h2", "");
  title.append(element("a", skill.displayName, { href: `/skills/${encodeURIComponent(skill.name)}` }));
  const byline = element("p", `${skill.author} · ${skill.category} `, { className: "byline" });
  byline.append(element("span", skill.certTier.toLowerCase(), { className: "tier" }));
  if (skill.installs) byline.append(` · ${skill.installs.toLocaleString("en")} installs`);
  item.append(title, byline, element("p", skill.description));
  return item;
}

function parameters() {
  const values = [...new FormData(form)].filter(([, value]) => value.trim());
  return new URLSearchParams(values);
}

async function load({ append }) {
  const question = ++latest;
  const query = parameters();
  if (!append) history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  if (append) query.set("cursor", nextCursor);
  try {
    const response = await fetch(`/api/v1/skills?${query}`);
    const answer = await response.json();
    if (question !== latest) return;
    if (!response.ok) throw new Error(answer.detail);
    show(answer, append);
  } catch (error) {
    if (question === latest) say(`The list could not be loaded: ${error.message}`);
  }
}

function show(answer, append) {
  const cards = answer.skills.map(card);
  if (append) list.append(...cards);
  else list.replaceChildren(...cards);
  nextCursor = answer.nextCursor;
  more.hidden = nextCursor === null;
  const total = answer.totalIsExact ? `${answer.total}` : `${answer.total.toLocaleString("en")}+`;
  count.textContent = total === "1" ? "1 skill" : `${total} skills`;
  say(answer.degraded ? "Part of the marketplace is being repaired; this list comes from a copy." : "");
}

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

async function loadCategories() {
  try {
    const response = await fetch("/api/v1/skills/categories");
    const { categories, detail } = await response.json();
    if (!response.ok) throw new Error(detail);
    const options = categories.map(({ name, count: size }) =>
      element("option", `${name} (${size})`, { value: name }));
    form.elements.category.append(...options);
  } catch (error) {
    say(`The categories could not be loaded: ${error.message}`);
  }
}

function restore() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (form.elements[name]) form.elements[name].value = value;
  }
}

let pause;
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => load({ append: false }), TYPING_PAUSE_MS);
});
more.addEventListener("click", () => load({ append: true }));

await loadCategories();
restore();
await load({ append: false });
