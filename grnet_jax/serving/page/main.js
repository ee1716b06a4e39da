// The page: its state, and what it shows.

import { about, explain, prepare, search, send, show } from "./api.js";
import { BoxEditor, place } from "./boxes.js";
import { element, Filters, fillCard, waitingCards } from "./results.js";

const $ = (id) => document.getElementById(id);
const PAGE = 20, DELAY = 250;
const COLORS = ["#c2185b", "#00695c", "#4527a0", "#b23c00", "#01579b"];
let catalog, blob, photo, like = null, running, timer, shown = [], finder = "";
const editor = new BoxEditor(() => later());
const filters = new Filters(() => { remember(); later(); });

const later = () => { clearTimeout(timer); timer = setTimeout(() => find(), DELAY); };
const ready = () => like !== null || photo;

function fail(error) {
  if (error.name === "AbortError") return;
  $("error").hidden = false;
  $("error").textContent = error.message;
  const again = element("button", { className: "small", type: "button", textContent: "Try again" });
  again.addEventListener("click", () => (blob && !photo ? take(blob) : find()));
  $("error").append(again);
  $("status").textContent = "";
  $("results").classList.remove("stale");
  if ($("results").querySelector(".wait")) $("results").replaceChildren();
}

async function take(file) {
  if (!file) return;
  $("error").hidden = true;
  try {
    blob = await prepare(file);
    photo = null;
    like = null;
    remember(true);
    const url = URL.createObjectURL(blob);
    $("picture").src = url;
    $("start").hidden = true;
    $("panel").hidden = false;
    $("panel-title").textContent = "Your photo";
    editor.open([1, 1], [], false);
    wait();
    await upload();
    await find({ focus: true });
  } catch (error) { fail(error); }
}

async function upload() {
  photo = await send(blob);
  if (like === null) editor.open([photo.width, photo.height], photo.garments, true);
}

function wait() {
  $("results-title").textContent = "Looking";
  $("status").textContent = "Searching";
  $("banner").hidden = true;
  if (shown.length && finder) $("results").classList.add("stale");
  else $("results").replaceChildren(...waitingCards(10));
  $("more").hidden = true;
}

const query = () => ({
  ...(like !== null ? { photo_number: like } : { photo: photo.photo, box: editor.box }),
  filters: filters.asked(), limit: PAGE,
});

async function find({ focus = false, more = false, again = true } = {}) {
  if (!ready()) return;
  running?.abort();
  const mine = (running = new AbortController());
  $("error").hidden = true;
  if (!more) wait();
  try {
    const offset = more ? shown.length : 0;
    const found = await search({ ...query(), offset }, mine.signal);
    if (mine !== running) return;
    render(found, more);
    if (focus) $("results-title").focus();
    if (more) $("results").children[offset]?.querySelector("button").focus();
  } catch (error) {
    if (error.slug === "photo-expired" && again && blob) {
      const box = editor.box;
      try {
        await upload();
        editor.box = box;
        editor.draw();
        await find({ focus, more, again: false });
      } catch (other) { fail(other); }
    } else if (mine === running) fail(error);
  }
}

function render(found, more) {
  finder = "search";
  shown = more ? [...shown, ...found.results] : found.results;
  const cards = found.results.map((one) => fillCard(one, catalog, { like: goTo, why }));
  $("results").classList.remove("stale");
  more ? $("results").append(...cards) : $("results").replaceChildren(...cards);
  $("more").hidden = !found.more || shown.length + PAGE > 120;
  $("results-title").textContent = like === null ? "What we found" : "More like this";
  $("back").hidden = like === null || !blob;
  const best = shown[0]?.probability;
  const words = `${shown.length} ${shown.length === 1 ? "item" : "items"}` +
    (best != null ? `, the first with a chance of ${percent(best)}` : "") +
    (Object.keys(filters.asked()).length ? `; ${found.passing.toLocaleString()} photos pass the filters` : "") +
    (found.calibration === "stale" ? ". Chances were measured on an older catalog." : "");
  $("status").textContent = shown.length ? words : "";
  const banner = $("banner");
  banner.hidden = shown.length > 0 && found.verdict !== "unlikely";
  banner.textContent = shown.length
    ? "Probably not in this catalog. The nearest that we have:"
    : `Nothing found: ${found.passing.toLocaleString()} of ${catalog.photos.toLocaleString()} photos pass the filters.`;
  if (!shown.length && !found.passing) banner.append(clearing());
}

const percent = (share) => `${Math.round(100 * share)}%`;

function clearing() {
  const button = element("button", { className: "small", type: "button", textContent: "Clear the filters" });
  button.addEventListener("click", () => filters.clear());
  return button;
}

// Searches by a photo of the catalog.
function goTo(number) {
  like = number;
  remember(true);
  openLike();
  find({ focus: true });
  scrollTo({ top: 0 });
}

function openLike() {
  $("start").hidden = true;
  $("panel").hidden = false;
  $("panel-title").textContent = "More like this";
  editor.open([1, 1], [], false);
  show($("picture"), `v1/photos/${like}/thumbnail`);
}

async function openPhoto() {
  like = null;
  if (!blob) { start(); return; }
  $("picture").src = URL.createObjectURL(blob);
  $("panel-title").textContent = "Your photo";
  if (photo) editor.open([photo.width, photo.height], photo.garments, true);
  await find();
}

// The address holds the filters and the photo of the catalog, so that Back works.
function remember(push = true) {
  const values = filters.toParams();
  if (like !== null) values.set("like", like);
  const text = values.toString();
  const url = `${location.pathname}${text ? `?${text}` : ""}${location.hash}`;
  if (url === location.pathname + location.search + location.hash) return;
  history[push ? "pushState" : "replaceState"](null, "", url);
}

function recall() {
  const values = new URLSearchParams(location.search);
  filters.fromParams(values);
  like = /^\d+$/.test(values.get("like") ?? "") ? Number(values.get("like")) : null;
  if (like !== null) { openLike(); find(); } else openPhoto();
}

function start() {
  $("start").hidden = false;
  $("panel").hidden = true;
  $("back").hidden = $("more").hidden = $("banner").hidden = true;
  finder = "";
  $("results-title").textContent = "From the catalog";
  $("status").textContent = "No photo at hand? Start from one of these.";
  $("results").replaceChildren(...catalog.samples.map((one) => fillCard({ item_id: one.item_id, fields: {}, photo: one, other_photos: [], copies: [] }, catalog, { like: goTo })));
}

async function why(result) {
  const asked = like !== null ? { photo_number: like } : { photo: photo.photo, box: editor.box };
  try {
    const { pairs } = await explain({ ...asked, result: result.photo.number });
    const sides = [["why-query", "query", $("picture").src], ["why-result", "result", ""]];
    for (const [id, side, url] of sides) {
      const img = element("img", { alt: side === "query" ? "Your photo" : `Item ${result.item_id}` });
      url ? (img.src = url) : show(img, result.photo.thumbnail);
      const marks = pairs.flatMap((pair, number) => mark(pair[side], number));
      $(id).replaceChildren(img, ...marks);
    }
    const where = (box) => `${percent(box[0])} to ${percent(box[2])} across, ${percent(box[1])} to ${percent(box[3])} down`;
    $("why-pairs").replaceChildren(...pairs.map((pair, number) => {
      const row = element("tr");
      for (const text of [number + 1, `${(100 * pair.weight).toFixed(1)}%`, where(pair.query), where(pair.result)]) row.append(element("td", { textContent: text }));
      return row;
    }));
    $("why").showModal();
  } catch (error) { fail(error); }
}

function mark(box, number) {
  const frame = element("div", { className: "mark" }), label = element("b", { textContent: number + 1 });
  place(frame, box);
  frame.style.color = label.style.background = COLORS[number % COLORS.length];
  label.style.left = `calc(${100 * box[0]}% + ${1.6 * number}rem)`;
  label.style.top = `${100 * box[1]}%`;
  return [frame, label];
}

function listen() {
  // Small photos are shown larger, too, so that a box can be drawn.
  $("picture").addEventListener("load", ({ target }) => target.style.setProperty("--ratio", target.naturalWidth / target.naturalHeight));
  for (const id of ["file", "camera", "again"]) $(id).addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
  addEventListener("paste", (event) => take([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
  addEventListener("dragover", (event) => { event.preventDefault(); $("veil").hidden = false; });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("veil").hidden = true; });
  addEventListener("drop", (event) => { event.preventDefault(); $("veil").hidden = true; take(event.dataTransfer.files[0]); });
  addEventListener("popstate", recall);
  $("more").addEventListener("click", () => find({ more: true }));
  $("back").addEventListener("click", () => { like = null; remember(true); openPhoto(); });
  $("clear").addEventListener("click", () => filters.clear());
  $("why").addEventListener("click", (event) => { if (event.target.closest("[data-close]") || event.target === $("why")) $("why").close(); });
}

async function main() {
  listen();
  try {
    catalog = await about();
  } catch (error) {
    fail(error);
    if (error.status === 503) setTimeout(() => location.reload(), 3000);
    return;
  }
  document.title = `${catalog.name}: search by photo`;
  $("name").textContent = catalog.name;
  $("size").textContent = `${catalog.items.toLocaleString()} items, ${catalog.photos.toLocaleString()} photos`;
  filters.build(catalog.facets);
  recall();
}

main();
