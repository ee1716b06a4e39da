// Cards of what was found, and the filters.

import { show } from "./api.js";

const $ = (id) => document.getElementById(id);
const TITLES = ["title", "name"], LINKS = ["url", "link"], PRICES = ["price"];
const HIDDEN = new Set([...TITLES, ...LINKS, ...PRICES, "currency", "in_stock", "split", "view", "occluded", "cropped"]);
const pick = (fields, names) => names.map((name) => fields[name]).find(Boolean);

export const element = (tag, values = {}) => Object.assign(document.createElement(tag), values);

export function price(fields) {
  const number = Number(pick(fields, PRICES));
  if (!Number.isFinite(number) || !pick(fields, PRICES)) return pick(fields, PRICES) ?? "";
  try {
    return new Intl.NumberFormat(undefined, fields.currency ? { style: "currency", currency: fields.currency } : {}).format(number);
  } catch { return String(number); }
}

export function chance(share) {
  if (share < 0.01) return "under 1% the same item";
  return `${share > 0.99 ? "over 99" : Math.round(100 * share)}% the same item`;
}

export function fillCard(result, catalog, on) {
  const card = $("card").content.cloneNode(true).firstElementChild;
  const find = (name) => card.querySelector(name);
  const title = pick(result.fields, TITLES) ?? result.item_id;
  show(find("img"), result.photo.thumbnail);
  find("img").alt = title;
  find("h3").textContent = title;
  find(".rank").textContent = result.rank ?? "";
  find(".rank").hidden = !result.rank;
  const facts = Object.entries(result.fields).filter(([name]) => !HIDDEN.has(name)).map(([, text]) => text.split("|").join(", "));
  const stock = /^(0|false|no)$/i.test(result.fields.in_stock ?? "") ? "sold out" : "";
  find(".facts").textContent = [price(result.fields), stock, ...facts].filter((text) => text && text.length < 40).slice(0, 4).join(" · ");
  if (result.probability != null) {
    find(".chance").hidden = false;
    find(".words").textContent = chance(result.probability);
    find(".bar i").style.width = `${100 * result.probability}%`;
  }
  find(".like").addEventListener("click", () => on.like(result.photo.number));
  find(".like").setAttribute("aria-label", `More like ${title}`);
  if (catalog.explains && on.why) {
    find(".why").hidden = false;
    find(".why").setAttribute("aria-label", `Why ${title}?`);
    find(".why").addEventListener("click", () => on.why(result));
  }
  const link = pick(result.fields, LINKS);
  if (/^https?:\/\//.test(link ?? "")) Object.assign(find(".shop"), { hidden: false, href: link, ariaLabel: `Visit ${title}` });
  const many = (count, one) => `${count} more ${one}${count === 1 ? "" : "s"}`;
  unfold(find(".others"), result.other_photos, many(result.other_photos.length, "photo"), on);
  unfold(find(".copies"), result.copies, `${result.copies.length} ${result.copies.length === 1 ? "item has" : "items have"} the same photo`, on);
  return card;
}

function unfold(details, photos, words, on) {
  details.hidden = !photos.length;
  details.querySelector("summary").textContent = words;
  details.addEventListener("toggle", () => {
    const list = details.querySelector("ul");
    if (!details.open || list.children.length) return;
    for (const photo of photos) {
      const button = element("button", { type: "button" }), img = element("img", { alt: `More like ${photo.item_id}` });
      show(img, photo.thumbnail);
      button.append(img);
      button.addEventListener("click", () => on.like(photo.number));
      list.append(element("li"));
      list.lastChild.append(button);
    }
  });
}

export function waitingCards(count) {
  return Array.from({ length: count }, () => {
    const card = $("card").content.cloneNode(true).firstElementChild;
    card.classList.add("wait");
    card.setAttribute("aria-hidden", "true");
    for (const part of card.querySelectorAll(".rank, .actions, img")) part.remove();
    return card;
  });
}

export class Filters {
  constructor(changed) {
    this.changed = changed;
    $("facets").addEventListener("change", () => { this.count(); this.changed(); });
    $("facets").addEventListener("submit", (event) => event.preventDefault());
  }

  build(facets) {
    $("filters").hidden = !facets.length;
    $("filters").open = matchMedia("(min-width: 60rem)").matches;
    $("facets").replaceChildren(...facets.map((facet) => {
      const group = element("fieldset");
      group.append(element("legend", { textContent: label(facet.name) }));
      group.append(facet.values.length ? this.chips(facet) : this.range(facet));
      return group;
    }));
  }

  chips(facet) {
    const chips = element("div", { className: "chips" });
    for (const { value, count } of facet.values) {
      const one = element("label"), input = element("input", { type: "checkbox", name: facet.name, value });
      one.append(input, value, element("span", { textContent: count.toLocaleString() }));
      chips.append(one);
    }
    return chips;
  }

  range(facet) {
    const range = element("div", { className: "range" });
    for (const end of ["min", "max"]) {
      const one = element("label", { textContent: end === "min" ? "from" : "to" });
      const input = element("input", { type: "number", step: "any", name: facet.name, placeholder: facet[end] });
      input.dataset.end = end;
      one.append(input);
      range.append(one);
    }
    return range;
  }

  asked() {
    const asked = {};
    for (const input of $("facets").elements) {
      if (input.dataset.end && input.value !== "") (asked[input.name] ??= {})[input.dataset.end] = Number(input.value);
      else if (input.checked) (asked[input.name] ??= []).push(input.value);
    }
    return asked;
  }

  count() {
    const count = Object.keys(this.asked()).length;
    $("filter-count").textContent = count ? `(${count})` : "";
    $("clear").hidden = !count;
  }

  clear() {
    this.fromParams(new URLSearchParams());
    this.changed();
  }

  toParams() {
    const values = new URLSearchParams();
    for (const [name, wanted] of Object.entries(this.asked())) {
      if (Array.isArray(wanted)) for (const value of wanted) values.append(`f.${name}`, value);
      else for (const end of Object.keys(wanted)) values.set(`f.${name}.${end}`, wanted[end]);
    }
    return values;
  }

  fromParams(values) {
    for (const input of $("facets").elements) {
      if (input.dataset.end) input.value = values.get(`f.${input.name}.${input.dataset.end}`) ?? "";
      else if (input.type === "checkbox") input.checked = values.getAll(`f.${input.name}`).includes(input.value);
    }
    this.count();
  }
}

const label = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
