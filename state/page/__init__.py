"""The page of a run: its change log as one HTML file that needs no server, no network and no other file."""

from state.page.document import Page as Page
from state.page.document import write_page as write_page
