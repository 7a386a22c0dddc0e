// The editor of VQL: CodeMirror over a textarea. hatch_build.py bundles it with its libraries for the page /vql.
// It lives in a shadow root, where its styles are allowed without an exception in the content security policy.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { bracketMatching, HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { SQLDialect, sql } from "@codemirror/lang-sql";
import { EditorState } from "@codemirror/state";
import { Decoration, drawSelection, EditorView, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";

const DIALECT = SQLDialect.define({
  keywords: "select from where group by having order limit as and or not in like between case when then else end asc desc null is interval explain distinct millisecond second minute hour day week",
  types: "string int64 float64 int float bool",
  builtin: "metrics spans",
  operatorChars: "+-*/<>=!%",
  charSetCasts: false,
  hashComments: true,
  backslashEscapes: true,
});

const STYLE = HighlightStyle.define([
  { tag: tags.keyword, color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--good)" },
  { tag: tags.number, color: "var(--c2)" },
  { tag: [tags.comment, tags.lineComment, tags.blockComment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.standard(tags.name), tags.typeName], color: "var(--c4)" },
]);

const THEME = EditorView.theme({
  "&": { color: "var(--text)", backgroundColor: "var(--surface)", fontSize: "13px", minHeight: "150px", maxHeight: "46vh" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.6", overflow: "auto" },
  ".cm-content": { caretColor: "var(--text)", padding: "10px 0" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--muted)", border: "0", paddingLeft: "6px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--accent-soft)" },
  ".cm-matchingBracket": { backgroundColor: "var(--accent-soft)", outline: "none" },
  ".cm-wrong": { textDecoration: "underline wavy var(--bad)", textUnderlineOffset: "4px" },
  ".cm-tooltip": { border: "1px solid var(--line-strong)", borderRadius: "8px", backgroundColor: "var(--surface)", color: "var(--text)", overflow: "hidden" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", fontSize: "12.5px" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent-soft)", color: "var(--text)" },
  ".cm-completionDetail": { color: "var(--muted)", fontStyle: "normal" },
});

// Positions of the server are in code points, those of the editor in UTF-16 units.
const toPoints = (text, units) => [...text.slice(0, units)].length;
const toUnits = (text, points) => [...text].slice(0, points).join("").length;

const complete = async (context) => {
  const text = context.state.doc.toString();
  const word = context.matchBefore(/[\w.']+/);
  if (!word && !context.explicit && !/[\s(,=[]$/.test(text.slice(0, context.pos))) return null;
  const response = await fetch("/vql/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify({ query: text, position: toPoints(text, context.pos) }),
  });
  if (!response.ok || context.aborted) return null;
  const { start, items } = await response.json();
  const options = items.map((item, rank) => ({ label: item.label, apply: item.insert, detail: item.kind, boost: -rank }));
  return options.length ? { from: toUnits(text, start), options, filter: false } : null;
};

// The word at the place that the server complained about.
const wrongAt = (text, points) => {
  const from = Math.min(toUnits(text, points), text.length);
  const length = /^[\w.]+|^'[^']*'?|^\S/.exec(text.slice(from))?.[0].length ?? 0;
  const [start, end] = length ? [from, from + length] : [Math.max(0, from - 1), from];
  if (start === end) return [];
  return EditorView.decorations.of(Decoration.set([Decoration.mark({ class: "cm-wrong" }).range(start, end)]));
};

// What replaces a selection is inserted by us: the browser would keep the looks of what was there by an inline style.
const replaceSelection = EditorView.domEventHandlers({
  beforeinput(event, view) {
    if (event.inputType !== "insertText" || !event.data || view.state.selection.main.empty) return false;
    view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
    event.preventDefault();
    return true;
  },
});

const mount = (textarea) => {
  const host = document.createElement("div");
  host.className = "editor";
  const root = host.attachShadow({ mode: "open" });
  const parent = document.createElement("div");
  root.append(parent);
  textarea.after(host);
  textarea.hidden = true;
  const run = () => {
    textarea.form.requestSubmit();
    return true;
  };
  const text = textarea.value;
  const at = textarea.dataset.wrongAt;
  const view = new EditorView({
    root,
    parent,
    state: EditorState.create({
      doc: text,
      selection: { anchor: text.length },
      extensions: [
        lineNumbers(), history(), drawSelection(), bracketMatching(), closeBrackets(), replaceSelection, THEME,
        sql({ dialect: DIALECT }), syntaxHighlighting(STYLE), EditorView.lineWrapping,
        autocompletion({ override: [complete], activateOnTyping: true }),
        keymap.of([{ key: "Mod-Enter", run }, ...closeBracketsKeymap, ...completionKeymap, ...historyKeymap, ...defaultKeymap]),
        at ? wrongAt(text, Number(at)) : [],
        EditorView.contentAttributes.of({ "aria-label": "Query" }),
        EditorView.updateListener.of((update) => { if (update.docChanged) textarea.value = update.state.doc.toString(); }),
      ],
    }),
  });
  textarea.addEventListener("vantage:text", () => {
    view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: textarea.value } });
    view.focus();
  });
};

for (const textarea of document.querySelectorAll("textarea[data-vql]")) mount(textarea);
