/* How results of the search are ranked: pages of the guide with the word in a heading come first. */
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([docname, title, anchor, descr, score, filename, kind]) => {
    if (docname.startsWith("guide/")) return score + (score >= 15 ? 20 : 5);
    return ["changelog", "contributing", "decisions"].includes(docname) ? score - 4 : score;
  },
};
