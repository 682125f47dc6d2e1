// The page's moving parts: the contents on a phone, light or dark, wide formulas, and search. All of it works from file:// too.
(() => {
  const root = document.currentScript.dataset.root;
  const $ = (selector) => document.querySelector(selector);

  const menu = $("#menu"), sidebar = $("#quarto-sidebar");
  const show = (open) => { document.body.classList.toggle("menu-open", open); menu.setAttribute("aria-expanded", open); };
  menu.addEventListener("click", () => show(!document.body.classList.contains("menu-open")));
  sidebar.addEventListener("click", (e) => e.target.closest("a") && show(false));
  const current = sidebar.querySelector("[aria-current]");
  if (current && current.offsetTop > sidebar.clientHeight / 2) sidebar.scrollTop = current.offsetTop - 120;

  $("#theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch {}
  });

  // a formula wider than the text may use the margin, where there is one
  addEventListener("load", () => document.querySelectorAll(".equation .katex-display").forEach((formula) => {
    if (formula.scrollWidth > formula.clientWidth + 1) formula.closest(".equation").classList.add("wide");
  }));

  // an anchor inside a fold has to be seen when one jumps to it
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  addEventListener("load", unfold);  // after the formulas have taken their room

  // search-index.js sets window.BOOK to [[kind, text, page, address, extra words], …] and is fetched when it is first needed
  const input = $("#quarto-search input"), results = $("#search-results");
  let loading;
  const load = () => loading ||= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = root + "assets/search-index.js";
    script.onload = resolve;
    document.head.append(script);
  });
  const score = ([kind, text, , , words], terms) => {
    const name = text.toLowerCase(), all = name + " " + words.toLowerCase();
    let total = { page: 3, name: 2, section: 1 }[kind];
    for (const term of terms) {
      if (!all.includes(term)) return 0;
      total += name === term ? 20 : name.startsWith(term) ? 10 : name.includes(term) ? 5 : 1;
    }
    return total;
  };
  const search = async () => {
    await load();
    const terms = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = terms.length ? window.BOOK.map((entry) => [score(entry, terms), entry]).filter(([s]) => s).sort((a, b) => b[0] - a[0]).slice(0, 12) : [];
    results.replaceChildren(...hits.map(([, [kind, text, page, address]]) => {
      const link = Object.assign(document.createElement("a"), { href: root + address, className: kind });
      const place = Object.assign(document.createElement("small"), { textContent: kind === "page" ? "" : page });
      link.append(Object.assign(document.createElement("span"), { textContent: text }), place);
      return link;
    }));
    if (terms.length && !hits.length) results.append(Object.assign(document.createElement("p"), { textContent: "Nothing found" }));
    results.hidden = !terms.length;
  };
  input.addEventListener("focus", load);
  input.addEventListener("input", search);
  results.addEventListener("click", (e) => { if (e.target.closest("a")) results.hidden = true; });
  document.addEventListener("click", (e) => { if (!e.target.closest("#quarto-search")) results.hidden = true; });
  document.addEventListener("keydown", (e) => {
    if (e.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { e.preventDefault(); input.focus(); }
    if (e.key === "Escape") { results.hidden = true; input.blur(); show(false); }
    if (e.key === "Enter" && document.activeElement === input) results.querySelector("a")?.click();
    if (e.key === "ArrowDown" && e.target.closest?.("#quarto-search") && !results.hidden) {
      e.preventDefault();
      (document.activeElement === input ? results.querySelector("a") : document.activeElement.nextElementSibling)?.focus();
    }
  });
})();
